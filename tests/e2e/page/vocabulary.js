// The rest of what RTVI can say, as each generation of the SDK hears it. What the bot does on request: ../bot.py.
import { connected, hangUp, names, outcome } from "./client.js";
import { RTVIMessage } from "sdk";

// What a segment's first words look like in the form of any version.
const begun = (data) => data.spoken_status === "in-progress" || (data.spoken && data.aggregated_by === "word");
const messages = (client) => client.all("serverMessage");

// A story of two sentences, spoken to its end.
async function told(at) {
  const { client } = await connected(at);
  await client.sdk.sendText("tell");
  await client.sees("botStoppedSpeaking");
  await hangUp(client);
  return { output: client.all("botOutput"), events: names(client) };
}

// The same, cut short by `interrupt` in its first sentence.
const cut = (interrupt) => async (at) => {
  const { client } = await connected(at);
  await client.sdk.sendText("tell");
  await client.sees("botOutput", begun);
  await interrupt(client);
  await client.sees("botStoppedSpeaking");
  await client.sdk.sendClientRequest("add", { a: 1, b: 1 });
  await hangUp(client);
  return { output: client.all("botOutput"), events: names(client) };
};

const interrupted = cut((client) => client.sdk.sendClientRequest("barge_in", {}));

const typed_over = cut(async (client) => {
  await client.sdk.sendText("stop");
  await client.sees("botLlmText", ({ text }) => text.startsWith("stop"));
});

// A function that runs here, for the bot: `found` is what it returns.
const tool = (found) => async (at) => {
  const { client } = await connected(at);
  const asked = [];
  client.sdk.registerFunctionCallHandler("get_location", async (call) => {
    asked.push({ name: call.functionName, arguments: call.arguments });
    return found;
  });
  await client.sdk.sendText("where am I");
  await client.sees("botLlmStopped");
  await hangUp(client);
  const said = client.all("botLlmText").map(({ text }) => text).join("");
  return { asked, said, errors: client.all("messageError"), events: names(client) };
};

async function ui_commands(at) {
  const { client } = await connected(at);
  await client.sdk.sendClientRequest("decorate", {});
  await hangUp(client);
  return { commands: client.all("uiCommand") };
}

async function ui_event(at) {
  const { client } = await connected(at);
  client.sdk.sendUIEvent("clicked", { button: "buy", times: 2 });
  client.sdk.sendUIEvent("bare");
  await client.until("both events", () => messages(client).length === 2);
  await hangUp(client);
  return { heard: messages(client) };
}

// The page is given something to see; the SDK's own walker describes it.
async function ui_snapshot(at) {
  const { client } = await connected(at);
  document.querySelector("main").innerHTML = '<h1>Shop</h1><button>Buy</button><input aria-label="Name" value="Ada">';
  client.sdk.startUISnapshotStream({ debounceMs: 20 });
  await client.sees("serverMessage", ({ snapshot }) => snapshot);
  document.querySelector("button").textContent = "Bought";
  await client.sees("serverMessage", ({ snapshot }) => JSON.stringify(snapshot).includes("Bought"));
  client.sdk.stopUISnapshotStream();
  await hangUp(client);
  return { snapshots: messages(client).map(({ snapshot }) => snapshot) };
}

async function jobs(at) {
  const { client } = await connected(at);
  await client.sdk.sendClientRequest("work", {});
  await client.sees("uiJobGroup", ({ kind }) => kind === "group_completed");
  await hangUp(client);
  return { jobs: client.all("uiJobGroup") };
}

async function jobs_cancelled(at) {
  const { client } = await connected(at);
  await client.sdk.sendClientRequest("work", { endless: true });
  const { job_id } = await client.sees("uiJobGroup", ({ kind }) => kind === "job_update");
  client.sdk.cancelUIJobGroup(job_id, "enough");
  await client.sees("uiJobGroup", ({ kind }) => kind === "group_completed");
  await hangUp(client);
  return { jobs: client.all("uiJobGroup"), heard: messages(client) };
}

async function dtmf(at) {
  const { client } = await connected(at);
  const sent = await outcome((async () => client.sdk.sendDTMF("1*#"))());
  await client.sees("serverMessage", ({ dtmf }) => dtmf);
  await hangUp(client);
  return { sent, heard: messages(client) };
}

async function metrics(at) {
  const { client } = await connected(at);
  await client.sdk.sendClientRequest("measure", {});
  await hangUp(client);
  return { metrics: client.all("metrics") };
}

// Functions that run in the bot, of which the client hears at one report level after the other.
async function functions(at) {
  const { client } = await connected(at);
  await client.sdk.sendClientRequest("look_up", {});
  await hangUp(client);
  return { calls: client.events.filter(({ event }) => event.startsWith("llmFunctionCall")) };
}

// The newest SDK has no method for it yet; its transport sends what it is given.
async function file(at) {
  const { client } = await connected(at);
  const source = { type: "bytes", bytes: btoa("%PDF-") };
  client.sdk.transport.sendMessage(
    new RTVIMessage("send-file", { content: "what is this?", file: { format: "application/pdf", name: "a.pdf", source } }),
  );
  const heard = await client.sees("serverMessage", ({ file }) => file);
  await hangUp(client);
  return { heard, errors: client.all("messageError") };
}

async function appended(at) {
  const { client } = await connected(at);
  await client.sdk.appendToContext({ role: "user", content: "remember this", run_immediately: true });
  await client.sees("botLlmStopped");
  await hangUp(client);
  return { said: client.all("botLlmText").map(({ text }) => text).join(""), errors: client.all("messageError") };
}

// One of each message that a server can send.
async function everything(at) {
  const { client } = await connected(at);
  const count = await client.sdk.sendClientRequest("everything", {});
  const after = await outcome(client.sdk.sendClientRequest("add", { a: 2, b: 2 }));
  await hangUp(client);
  return { count, after, errors: client.all("error"), message_errors: client.all("messageError"), events: names(client) };
}

export const vocabulary = {
  told,
  interrupted,
  typed_over,
  tool_answers: tool({ city: "Oslo" }),
  tool_answers_zero: tool(0),
  tool_is_silent: tool(undefined),
  ui_commands,
  ui_event,
  ui_snapshot,
  jobs,
  jobs_cancelled,
  dtmf,
  metrics,
  functions,
  file,
  appended,
  everything,
};
