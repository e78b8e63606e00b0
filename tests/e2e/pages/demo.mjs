// The server's own page at /, used as a person uses it: connect, type, speak, crash an actor, talk on.
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const WAIT = { timeout: 15_000 };
const shot = (page, name) => page.screenshot({ path: join(HERE, `../screenshots/${name}.png`), fullPage: true });

async function connected(page, server) {
  const outside = [];
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== server && request.url().startsWith("http")) outside.push(request.url());
  });
  await page.goto(`${server}/`);
  await page.click("#connect", WAIT);
  await page.locator("#status", { hasText: /ready/i }).waitFor(WAIT);
  return outside;
}

// Types `text` and waits until the answer stands in the conversation.
async function ask(page, text) {
  await page.fill("#text", text);
  await page.click("#send");
  const bubble = page.locator("#conversation .bubble.bot", { hasText: `you said: ${text}` });
  await bubble.waitFor(WAIT);
  return (await bubble.innerText()).trim();
}

// What the page shows of one actor: `name` is the last part, as "text" of "session-3f2a/text".
const row = (page, name) => page.locator(`[data-actor$="/${name}"]`);
const restarts = async (page, name) => Number(await row(page, name).locator(".restarts").innerText(WAIT));
// The types of all messages in the log, in order.
const types = (page) => page.locator("#log [data-type]").evaluateAll((entries) => entries.map((each) => each.dataset.type));
const known = (page) => page.locator("[data-actor]").evaluateAll((rows) => rows.map((each) => each.dataset.actor));

async function type_and_answer(page, server) {
  const outside = await connected(page, server);
  const answered = await ask(page, "good morning");
  await page.locator('#log [data-type="bot-llm-stopped"]').waitFor(WAIT);
  const log = await types(page);
  await row(page, "outbound").waitFor(WAIT);
  const actors = await known(page);
  await shot(page, "demo-answered");
  await page.click("#disconnect");
  await page.locator("#status", { hasText: /disconnected|closed|offline/i }).waitFor(WAIT);
  return { outside, answered, log, actors, status: await page.innerText("#status") };
}

async function crash_and_go_on(page, server) {
  await connected(page, server);
  const answered = [await ask(page, "before the crash")];
  const seen = {};
  for (const name of ["text", "audio", "requests"]) {
    await row(page, name).waitFor(WAIT);
    const before = await restarts(page, name);
    await page.locator(`[data-crash$="/${name}"]`).click(WAIT);
    await row(page, name).locator(".restarts", { hasText: String(before + 1) }).waitFor(WAIT);
    seen[name] = { before, after: await restarts(page, name) };
    answered.push(await ask(page, `after ${name} crashed`));
  }
  await shot(page, "demo-crashed");
  return { seen, answered };
}

async function speak(page, server) {
  await connected(page, server);
  await page.click("#mic");
  const played = () => Number(document.querySelector("#status").dataset.audioMs) >= 500;
  await page.locator('#log [data-type="bot-started-speaking"]').waitFor(WAIT);
  await page.waitForFunction(played, null, WAIT);
  await shot(page, "demo-speaking");
  await page.click("#mic");
  const heard = await page.locator('#log [data-type="server-message"]').innerText(WAIT);
  return { log: await types(page), heard };
}

// Presses Interrupt in the middle of the bot's first sentence; then makes it ask for what this page does not have, and
// fail.
async function interrupt(page, server) {
  await connected(page, server);
  await page.fill("#text", "tell");
  await page.click("#send");
  const begun = () => {
    const [done, ahead] = document.querySelectorAll("#conversation .bubble.bot span");
    return done?.textContent.includes(" ") && ahead.textContent;
  };
  await page.waitForFunction(begun, null, WAIT);
  await page.click("#interrupt");
  await page.locator("#conversation .cut").first().waitFor(WAIT);
  await page.locator('#log [data-type="bot-stopped-speaking"]').waitFor(WAIT);
  const bubble = page.locator("#conversation .bubble.bot").first();
  const said = await bubble.innerText();
  const cut = (await bubble.locator(".cut").allInnerTexts()).map((text) => text.trim()).join(" ");
  await page.fill("#text", "where am I");
  await page.click("#send");
  await page.locator("#conversation .bubble.bot", { hasText: "limbo" }).waitFor(WAIT);
  await page.fill("#text", "break");
  await page.click("#send");
  await page.locator("#conversation .note.bad").waitFor(WAIT);
  await shot(page, "demo-interrupted");
  return { said, cut, notes: await page.locator("#conversation .note").allInnerTexts() };
}

export const demo = { type_and_answer, crash_and_go_on, speak, interrupt };
