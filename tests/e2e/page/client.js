// One SDK client and everything it reported, in order. The SDK is used as published: no patch, no private field.
// Which of its generations "sdk" is, drive.mjs decides: each has a bundle of its own (clients/*/sdk.js).
import { LogLevel, logger, PipecatClient, RTVIEvent, WavMediaManager, WebSocketTransport } from "sdk";

logger.setLevel(LogLevel.WARN);

// What the transport declares in every audio frame; this manager left to itself would record at 24 kHz.
const RECORDER_RATE_HZ = 16_000;
const RECORDER_CHUNK = 512;
const WAIT_MS = 15_000;
const NOISE = new Set([RTVIEvent.LocalAudioLevel, RTVIEvent.RemoteAudioLevel]);

// The default media manager fetches code from its vendor's network; this one is in the package (PROTOCOL.md 7).
// It also keeps the bot's audio as the SDK hands it to its player: PCM16 mono, assumed to be 24 kHz.
class ListeningMediaManager extends WavMediaManager {
  heard = [];
  onHeard = () => {};

  constructor() {
    super(RECORDER_CHUNK, RECORDER_RATE_HZ);
  }

  bufferBotAudio(data, id) {
    const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.heard.push(new Int16Array(bytes.slice().buffer));
    this.onHeard();
    return super.bufferBotAudio(data, id);
  }

  get samples() {
    return this.heard.reduce((sum, chunk) => sum + chunk.length, 0);
  }
}

export class Client {
  events = [];
  #waiting = new Set();

  constructor({ mic = false } = {}) {
    this.media = new ListeningMediaManager();
    this.media.onHeard = () => this.#wake();
    this.sdk = new PipecatClient({
      transport: new WebSocketTransport({ mediaManager: this.media }),
      enableMic: mic,
      enableCam: false,
    });
    for (const event of Object.values(RTVIEvent)) {
      if (NOISE.has(event)) continue;
      this.sdk.on(event, (data) => this.report(event, data));
    }
  }

  // Something happened, in the SDK or on the page.
  report(event, data) {
    this.events.push({ event, data: plain(data) });
    this.#wake();
  }

  // Resolves as soon as `condition` holds; checked at each event and each piece of audio, never by polling.
  until(what, condition) {
    if (condition()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const seen = () => this.events.map(({ event }) => event).join(" ");
      const timer = setTimeout(() => {
        this.#waiting.delete(check);
        reject(new Error(`waited ${WAIT_MS} ms for ${what}; seen: ${seen()}`));
      }, WAIT_MS);
      const check = () => {
        if (!condition()) return;
        clearTimeout(timer);
        this.#waiting.delete(check);
        resolve();
      };
      this.#waiting.add(check);
    });
  }

  sees(event, where = () => true) {
    const found = () => this.events.find((entry) => entry.event === event && where(entry.data));
    return this.until(event, found).then(() => found().data);
  }

  // The data of every event of one name, in order.
  all(event) {
    return this.events.filter((entry) => entry.event === event).map(({ data }) => data);
  }

  #wake() {
    for (const check of [...this.#waiting]) check();
  }
}

export async function connected(at, options) {
  const client = new Client(options);
  const ready = await client.sdk.connect({ wsUrl: at.wsUrl });
  return { client, ready };
}

// The SDK lists the devices while it connects, and trips over itself when it is told to disconnect before it has them.
export async function hangUp(client) {
  await client.sees("availableMicsUpdated");
  await client.sdk.disconnect();
}

// How a promise of the SDK settled, and after how long.
export async function outcome(promise) {
  const begun = performance.now();
  const settled = await promise.then(
    (value) => ({ resolved: value }),
    (error) => ({ rejected: error?.data ?? { error: String(error) } }),
  );
  return { ...settled, after_ms: Math.round(performance.now() - begun) };
}

// The names of all events, in order.
export const names = (client) => client.events.map(({ event }) => event);

// Events carry tracks and errors too: keep what JSON can hold.
function plain(data) {
  if (data === undefined) return null;
  if (data instanceof MediaStreamTrack) return { track: data.kind };
  return JSON.parse(JSON.stringify(data));
}
