// What the ecosystem's own client does with a bot, one function a story. Each returns the facts; pytest judges them.
// `at` is {startUrl, wsUrl}: where the server is.
import { Client, connected, hangUp, names, outcome } from "./client.js";
import { vocabulary } from "./vocabulary.js";

const PLAYED_RATE_HZ = 24_000;
const AUDIBLE = 1_000; // of 32,767

// The pitch of a tone: the median distance of its upward zero crossings, which gaps in a recording hardly move.
function pitchHz(chunks, rateHz) {
  const samples = chunks.flatMap((chunk) => [...chunk]);
  const periods = [];
  let crossed = 0;
  let peak = 0;
  for (let i = 1; i < samples.length; i++) {
    peak = Math.max(peak, samples[i]);
    if (samples[i - 1] >= 0 || samples[i] < 0) continue;
    if (peak > AUDIBLE) periods.push(i - crossed);
    crossed = i;
    peak = 0;
  }
  periods.sort((a, b) => a - b);
  return rateHz / periods[periods.length >> 1];
}

async function connect_by_start(at) {
  const client = new Client();
  const ready = await client.sdk.startBotAndConnect({ endpoint: at.startUrl });
  const state = client.sdk.state;
  await hangUp(client);
  return { ready, state, events: names(client) };
}

async function connect_by_url(at) {
  const { client, ready } = await connected(at);
  const state = client.sdk.state;
  await hangUp(client);
  return { ready, state, events: names(client), errors: client.all("error") };
}

async function send_text(at) {
  const { client } = await connected(at);
  await client.sdk.sendText("alpha beta gamma");
  await client.sees("botLlmStopped");
  await client.sees("botOutput");
  const said = client.all("botLlmText").map(({ text }) => text).join("");
  const output = client.all("botOutput");
  await hangUp(client);
  return { said, output, events: names(client) };
}

async function texts_in_order(at) {
  const { client } = await connected(at);
  for (const word of ["one", "two", "three"]) {
    const turns = client.all("botLlmStopped").length;
    await client.sdk.sendText(word);
    await client.until(`the answer to ${word}`, () => client.all("botLlmStopped").length > turns);
  }
  await hangUp(client);
  return { said: client.all("botLlmText").map(({ text }) => text).join(""), events: names(client) };
}

async function request_answered(at) {
  const { client } = await connected(at);
  const sum = await outcome(client.sdk.sendClientRequest("add", { a: 19, b: 23 }));
  const twenty = await Promise.all(Array.from({ length: 20 }, (_, i) => client.sdk.sendClientRequest("add", { a: i, b: 100 })));
  await hangUp(client);
  return { sum, twenty };
}

const refused = (type, data) => async (at) => {
  const { client } = await connected(at);
  const answer = await outcome(client.sdk.sendClientRequest(type, data));
  const after = await outcome(client.sdk.sendClientRequest("add", { a: 1, b: 1 }));
  await hangUp(client);
  return { answer, after, message_errors: client.all("messageError") };
};

async function microphone(at) {
  const { client } = await connected(at, { mic: true });
  const report = await client.sees("serverMessage", (data) => data?.heard_bytes >= 16_000);
  await client.sees("botStartedSpeaking");
  await client.until("half a second of bot audio", () => client.media.samples >= PLAYED_RATE_HZ / 2);
  const pitch_hz = Math.round(pitchHz(client.media.heard, PLAYED_RATE_HZ));
  const heard_samples = client.media.samples;
  await hangUp(client);
  return { report, heard_samples, pitch_hz, events: names(client) };
}

async function disconnect_bot(at) {
  const { client } = await connected(at);
  client.sdk.disconnectBot();
  await client.sees("disconnected");
  return { state: client.sdk.state, events: names(client) };
}

async function five_reconnects(at) {
  const client = new Client();
  const calls = [];
  for (let i = 0; i < 5; i++) {
    const ready = await client.sdk.connect({ wsUrl: at.wsUrl });
    const sum = await client.sdk.sendClientRequest("add", { a: i, b: 10 });
    await hangUp(client);
    calls.push({ version: ready.version, sum });
  }
  return { calls, errors: client.all("error") };
}

async function two_clients(at) {
  const pair = await Promise.all([connected(at), connected(at)]);
  const names = ["left", "right"];
  const work = pair.map(async ({ client }, i) => {
    await client.sdk.sendText(names[i]);
    const sum = await client.sdk.sendClientRequest("add", { a: i, b: 1000 });
    await client.sees("botLlmStopped");
    return { sum, said: client.all("botLlmText").map(({ text }) => text).join("") };
  });
  const done = await Promise.all(work);
  await hangUp(pair[0].client);
  // The other's call goes on.
  const after = await pair[1].client.sdk.sendClientRequest("add", { a: 5, b: 5 });
  await hangUp(pair[1].client);
  return { done, after };
}

window.scenarios = {
  connect_by_start,
  connect_by_url,
  send_text,
  texts_in_order,
  request_answered,
  request_failing: refused("fail", {}),
  request_unknown: refused("nobody-knows-this", { x: 1 }),
  request_malformed: refused("add", { a: "many", b: 1 }),
  microphone,
  disconnect_bot,
  five_reconnects,
  two_clients,
  ...vocabulary,
};
