// The ecosystem's prebuilt client, as the server serves it at /client/, used as a person uses it.
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const MEDIA_FILE = "**/call-machine-object-bundle.js";
const STUB = join(HERE, "media_stub.js");
const WAIT = { timeout: 15_000 };

async function talk(page, server) {
  const outside = [];
  page.on("request", (request) => {
    const { origin, pathname } = new URL(request.url());
    const local = origin === server || ["blob:", "data:"].includes(new URL(request.url()).protocol);
    if (!local && !pathname.endsWith("/call-machine-object-bundle.js")) outside.push(request.url());
  });
  await page.route(MEDIA_FILE, (route) => route.fulfill({ path: STUB, contentType: "text/javascript" }));
  await page.goto(`${server}/client/`);
  await page.getByRole("combobox").filter({ hasText: "SmallWebRTC" }).click(WAIT);
  await page.getByRole("option", { name: "WebSocket" }).click(WAIT);
  const connect = page.locator('[data-slot="connect-button"]');
  await page.locator('[data-slot="connect-button"][data-state="initialized"]').click(WAIT);
  await page.locator('[data-slot="connect-button"][data-state="ready"]').waitFor(WAIT);
  // The transport's "ready" comes first, the bot's own after it (PROTOCOL.md 1.5).
  await page.waitForFunction(() => /Agent\s+READY/.test(document.body.innerText), null, WAIT);
  const states = await statuses(page);
  const input = page.getByRole("textbox", { name: /message/i }).or(page.getByPlaceholder(/message/i)).first();
  await input.fill("hello there");
  await input.press("Enter");
  await page.getByText("you said: hello there").first().waitFor(WAIT);
  await input.fill("tell");
  await input.press("Enter");
  await page.getByText("Eight nine ten.").first().waitFor(WAIT);
  await page.screenshot({ path: join(HERE, "../screenshots/prebuilt-talking.png") });
  await connect.click();
  await page.locator('[data-slot="connect-button"]:not([data-state="ready"])').waitFor(WAIT);
  return { states, outside };
}

// What its status panel says of client and agent.
async function statuses(page) {
  const said = await page.innerText("body");
  const after = (label) => said.split("\n")[said.split("\n").indexOf(label) + 1];
  return { client: after("Client"), agent: after("Agent"), server: after("RTVI Server") };
}

export const prebuilt = { talk };
