// A page as applications make it with the SDK's React kit, and what a person sees on it, state by state.
// Each scenario returns `seen`: every state of the page that differed from the one before.
import { useCallback, useState } from "react";
import { createRoot } from "react-dom/client";
import * as kit from "sdk-react";
import { Client, hangUp, names } from "./client.js";

const text = (part) => (typeof part.text === "object" ? part.text : { spoken: part.text, unspoken: "" });

function Conversation() {
  const { messages } = kit.usePipecatConversation();
  return messages.map((message) => (
    <p key={message.createdAt} data-role={message.role} data-final={String(message.final)}>
      {message.parts.map((part, i) => (
        <span key={i}>
          <b>{text(part).spoken}</b>
          <i>{text(part).unspoken}</i>
        </span>
      ))}
      {message.functionCall && `${message.functionCall.function_name} ${message.functionCall.status}`}
    </p>
  ));
}

function Toasts() {
  const [toasts, setToasts] = useState([]);
  kit.useUICommandHandler("toast", useCallback((toast) => setToasts((all) => [...all, toast]), []));
  return toasts.map(({ title, description }, i) => <p key={i} data-role="toast">{`${title}: ${description}`}</p>);
}

function Jobs() {
  const { groups, cancelJobGroup } = kit.useUIJobGroups();
  return groups.map(({ jobId, label, status, jobs }) => (
    <p key={jobId} data-role="jobs">
      {`${label} ${status}: ${jobs.map((job) => `${job.workerName} ${job.status} ${job.updates.length}`).join(", ")}`}
      <button onClick={() => cancelJobGroup(jobId, "enough")}>cancel</button>
    </p>
  ));
}

// Job groups came with the SDK of protocol 1.3, and so did commands.
function Page() {
  return (
    <>
      <Conversation />
      {kit.UIJobGroupsProvider && (
        <kit.UIJobGroupsProvider>
          <Toasts />
          <Jobs />
        </kit.UIJobGroupsProvider>
      )}
    </>
  );
}

// What stands on the page: `spoken` is what the kit says has been spoken, `unspoken` what is still to come or was cut.
function seen() {
  return [...document.querySelectorAll("[data-role]")].map((element) => ({
    role: element.dataset.role,
    final: element.dataset.final === "true",
    spoken: [...element.querySelectorAll("b")].map((each) => each.textContent).join(""),
    unspoken: [...element.querySelectorAll("i")].map((each) => each.textContent).join(""),
    text: element.innerText,
  }));
}

// A client whose page is watched: each new state of it is an event "seen" beside those of the SDK.
async function shown(at) {
  const client = new Client();
  const main = document.querySelector("main");
  const look = () => {
    const state = seen();
    if (JSON.stringify(state) !== JSON.stringify(client.all("seen").at(-1))) client.report("seen", state);
  };
  new MutationObserver(look).observe(main, { subtree: true, childList: true, characterData: true, attributes: true });
  createRoot(main).render(
    <kit.PipecatClientProvider client={client.sdk}>
      <Page />
    </kit.PipecatClientProvider>,
  );
  await client.sdk.connect({ wsUrl: at.wsUrl });
  return client;
}

const bot = (state) => state.filter(({ role }) => role === "assistant");
const results = (client) => ({ seen: client.all("seen"), events: names(client) });

async function told(at) {
  const client = await shown(at);
  await client.sdk.sendText("tell");
  await client.sees("botStoppedSpeaking");
  await client.sees("seen", (state) => bot(state).some(({ unspoken }) => unspoken === ""));
  await hangUp(client);
  return results(client);
}

// The user speaks in the middle of the first sentence, and the bot answers.
async function interrupted(at) {
  const client = await shown(at);
  await client.sdk.sendText("tell");
  await client.sees("seen", (state) => bot(state).some(({ spoken, unspoken }) => spoken.trim() && unspoken));
  await client.sdk.sendClientRequest("barge_in", {});
  await client.sees("botStoppedSpeaking");
  await client.sees("seen", (state) => bot(state).some(({ final }) => final));
  await client.sdk.sendClientRequest("answer", {});
  await client.sees("seen", (state) => bot(state).length === 2);
  await hangUp(client);
  return results(client);
}

async function tool(at) {
  const client = await shown(at);
  client.sdk.registerFunctionCallHandler("get_location", async () => ({ city: "Oslo" }));
  await client.sdk.sendText("where am I");
  await client.sees("seen", (state) => bot(state).some(({ text }) => text.includes("Oslo")));
  await hangUp(client);
  return results(client);
}

async function toast(at) {
  const client = await shown(at);
  await client.sdk.sendClientRequest("decorate", {});
  await client.sees("seen", (state) => state.some(({ role }) => role === "toast"));
  await hangUp(client);
  return results(client);
}

// The user looks on for a while, then presses "cancel".
async function jobs(at) {
  const client = await shown(at);
  await client.sdk.sendClientRequest("work", { endless: true });
  await client.sees("seen", (state) => state.some(({ text }) => text.includes("running 1")));
  document.querySelector("[data-role=jobs] button").click();
  await client.sees("seen", (state) => state.some(({ text }) => text.startsWith("reading cancelled")));
  await hangUp(client);
  return results(client);
}

// One of each message that a server can send.
async function everything(at) {
  const client = await shown(at);
  await client.sdk.sendClientRequest("everything", {});
  await client.sdk.sendClientRequest("answer", {});
  await client.sees("seen", (state) => bot(state).some(({ text }) => text.includes("I am listening")));
  await hangUp(client);
  return results(client);
}

window.scenarios = { told, interrupted, tool, toast, jobs, everything };
