// The page: an RTVI 2.2.0 client in the JSON text dialect, and a view of the actor tree. One file, no build, no library.
// Elements are found by id; what tests read stands in data-* attributes.

const VERSION = "2.2.0";
const MIC_RATE_HZ = 16000;
const MIC_FRAME_SAMPLES = 320; // 20 ms
const LOG_ENTRIES = 400;
const CONVERSATION_ENTRIES = 200;
const POLL_MS = 500;
const PLAY_AHEAD_S = 0.03; // the first buffer starts a little later, so that the second is there in time
const INTERRUPTION_FRAME = new Uint8Array([0x2a, 0x00]); // protobuf Frame{interruption}: JSON has no such message

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const newId = () => [...crypto.getRandomValues(new Uint8Array(4))].map((b) => b.toString(16).padStart(2, "0")).join("");
const atEnd = (element) => element.scrollHeight - element.scrollTop - element.clientHeight < 40;
const trim = (element, most) => { while (element.childElementCount > most) element.firstElementChild.remove(); };

// -- connection --------------------------------------------------------------------------------------------------

let socket = null;

function setState(state, text = state) {
  const status = $("status");
  status.dataset.state = state;
  status.textContent = text;
  const ready = state === "ready";
  const open = ready || state === "connecting";
  $("connect").disabled = open;
  $("disconnect").disabled = !open;
  for (const id of ["text", "send", "mic", "interrupt"]) $(id).disabled = !ready;
}

function connect() {
  if (socket) return;
  setState("connecting");
  player.open();
  const url = new URL("ws?audio=1", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const opened = new WebSocket(url);
  socket = opened;
  opened.onopen = () => send("client-ready", { version: VERSION, about: { library: "rtvi-actors-page", platform: "web" } });
  opened.onmessage = (event) => receive(event.data);
  opened.onclose = (event) => {
    if (socket === opened) ended(event);
  };
}

function ended(event) {
  socket = null;
  microphone.stop();
  player.flush();
  speaking("user-speaking", false);
  speaking("bot-speaking", false);
  const clean = event.code === 1000 || event.code === 1005;
  const reason = event.reason || (event.code === 1006 ? "the connection failed or was refused" : `code ${event.code}`);
  setState(clean ? "disconnected" : "error", clean ? "disconnected" : "disconnected: error");
  note(clean ? "The call ended." : `The call ended: ${reason}.`, !clean);
}

function send(type, data, id = newId()) {
  if (socket?.readyState !== WebSocket.OPEN) return null;
  const message = { label: "rtvi-ai", type, id, ...(data === undefined ? {} : { data }) };
  socket.send(JSON.stringify(message));
  record("out", message);
  return id;
}

function receive(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    record("in", { type: "(not JSON)" });
    return;
  }
  if (message?.label !== "rtvi-ai") return;
  record("in", message);
  handlers[message.type]?.(message.data ?? {}, message);
}

// -- what the server says ------------------------------------------------------------------------------------------

const handlers = {
  "bot-ready": (data) => {
    setState("ready");
    $("version").textContent = `RTVI ${data.version} · ${data.about?.library ?? "?"} ${data.about?.library_version ?? ""}`;
    $("text").focus();
  },
  "user-started-speaking": () => speaking("user-speaking", true),
  "user-stopped-speaking": () => speaking("user-speaking", false),
  "bot-started-speaking": () => speaking("bot-speaking", true),
  "bot-stopped-speaking": () => speaking("bot-speaking", false),
  "bot-interrupted": () => {
    player.flush();
    conversation.cut();
  },
  "bot-llm-started": () => conversation.newTurn(),
  "user-input": (data) => conversation.heard(data),
  "bot-output": (data) => conversation.said(data),
  "bot-tts-audio": (data) => player.play(data),
  "server-message": (data) => note(`server: ${JSON.stringify(data)}`),
  // This page has no functions, views or jobs of its own: it says what a page that has them would be asked for.
  "llm-function-call-in-progress": ({ function_name: name, arguments: given = {} }) => name && note(`function ${name} ${JSON.stringify(given)}`),
  "ui-command": ({ command, payload = null }) => note(`page: ${command} ${JSON.stringify(payload)}`),
  "ui-job-group": ({ kind, label, job_id: id, workers }) => kind === "group_started" && note(`jobs: ${label ?? id} (${workers})`),
  "error-response": (data) => note(data.error, true),
  error: (data) => {
    note(data.error ?? data.message, true);
    if (data.fatal) socket?.close();
  },
};

function speaking(id, on) {
  $(id).dataset.on = String(on);
}

// -- conversation ----------------------------------------------------------------------------------------------------

function append(element) {
  const box = $("conversation");
  const follow = atEnd(box);
  box.querySelector(".empty")?.remove();
  box.append(element);
  trim(box, CONVERSATION_ENTRIES);
  if (follow) box.scrollTop = box.scrollHeight;
  return element;
}

function note(text, bad = false) {
  append(make("p", { className: bad ? "note bad" : "note", textContent: text }));
}

const conversation = {
  bot: null, // the bubble of the bot's running turn
  segments: new Map(), // segment id -> the three spans of one bot-output segment
  interim: null, // the bubble of a transcription that is not final yet
  typed: new Set(), // ids of our own send-text, shown when sent

  newTurn() {
    this.bot = null;
    this.segments.clear();
  },
  typedText(text, id) {
    this.newTurn();
    if (id) this.typed.add(id);
    const bubble = make("p", { className: "bubble user", textContent: text });
    append(bubble);
  },
  heard({ text, input_type: kind, final, msg_id: id }) {
    if (kind === "chat" && this.typed.delete(id)) return;
    this.interim ??= append(make("p", { className: "bubble user" }));
    this.interim.textContent = text;
    this.interim.dataset.final = String(final);
    if (final) {
      this.interim = null;
      this.newTurn();
    }
  },
  said(data) {
    const status = data.spoken_status;
    const progress = data.spoken_progress;
    if (!this.segments.has(data.segment_id) && status && status !== "new" && data.will_be_spoken) return;
    const spans = this.segments.get(data.segment_id) ?? this.open(data.segment_id);
    const waits = data.will_be_spoken && progress;
    spans.done.textContent = waits ? progress.accumulated_text : data.text;
    spans.ahead.textContent = waits ? progress.remaining_text : "";
  },
  open(id) {
    this.bot ??= append(make("p", { className: "bubble bot" }));
    const spans = { done: make("span"), ahead: make("span", { className: "ahead" }) };
    if (this.bot.childElementCount) this.bot.append(" ");
    this.bot.append(spans.done, spans.ahead);
    this.segments.set(id, spans);
    const box = $("conversation");
    box.scrollTop = box.scrollHeight;
    return spans;
  },
  cut() {
    for (const { ahead } of this.segments.values()) if (ahead.textContent) ahead.className = "cut";
    this.newTurn();
  },
};

// -- the bot's voice ---------------------------------------------------------------------------------------------------

const player = {
  context: null,
  sources: new Set(),
  until: 0, // when the last queued buffer ends, in the context's seconds

  open() {
    this.context ??= new AudioContext();
    this.context.resume();
  },
  play({ audio, sample_rate: rate, num_channels: channels }) {
    const bytes = Uint8Array.from(atob(audio), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const frames = Math.floor(bytes.length / 2 / channels);
    if (!frames) return;
    const status = $("status");
    status.dataset.audioMs = String(Math.round(Number(status.dataset.audioMs) + (frames / rate) * 1000));
    const buffer = this.context.createBuffer(channels, frames, rate);
    for (let channel = 0; channel < channels; channel += 1) {
      const samples = buffer.getChannelData(channel);
      for (let i = 0; i < frames; i += 1) samples[i] = view.getInt16((i * channels + channel) * 2, true) / 32768;
    }
    this.start(buffer);
  },
  start(buffer) {
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.context.destination);
    source.onended = () => this.sources.delete(source);
    const now = this.context.currentTime;
    const at = this.until > now ? this.until : now + PLAY_AHEAD_S;
    source.start(at);
    this.until = at + buffer.duration;
    this.sources.add(source);
  },
  flush() {
    for (const source of this.sources) source.stop();
    this.sources.clear();
    this.until = 0;
  },
};

// -- the microphone ------------------------------------------------------------------------------------------------------

// Runs in the audio thread: averages down to 16 kHz mono PCM16 and posts 20 ms at a time.
const WORKLET = `
registerProcessor("pcm", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / ${MIC_RATE_HZ};
    this.frame = new Int16Array(${MIC_FRAME_SAMPLES});
    this.filled = 0; this.sum = 0; this.count = 0; this.phase = 0;
  }
  process([channels]) {
    for (const sample of channels[0] ?? []) {
      this.sum += sample; this.count += 1; this.phase += 1;
      if (this.phase < this.step) continue;
      this.phase -= this.step;
      const value = Math.max(-1, Math.min(1, this.sum / this.count));
      this.frame[this.filled++] = value < 0 ? value * 32768 : value * 32767;
      this.sum = 0; this.count = 0;
      if (this.filled < this.frame.length) continue;
      this.port.postMessage(this.frame.slice().buffer);
      this.filled = 0;
    }
    return true;
  }
});`;

const microphone = {
  stream: null,
  context: null,

  async toggle() {
    if (this.stream) this.stop();
    else await this.start();
  },
  async start() {
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true },
      });
      this.context = new AudioContext();
      const url = URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" }));
      await this.context.audioWorklet.addModule(url);
      URL.revokeObjectURL(url);
      const node = new AudioWorkletNode(this.context, "pcm", { numberOfOutputs: 0 });
      node.port.onmessage = ({ data }) => this.send(new Uint8Array(data));
      this.context.createMediaStreamSource(this.stream).connect(node);
      $("mic").setAttribute("aria-pressed", "true");
    } catch (error) {
      this.stop();
      note(`No microphone: ${error.message ?? error}`, true);
    }
  },
  send(bytes) {
    const base64Audio = btoa(String.fromCharCode(...bytes));
    if (!send("raw-audio", { base64Audio, sampleRate: MIC_RATE_HZ, numChannels: 1 })) this.stop();
  },
  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.context?.close();
    this.stream = this.context = null;
    $("mic").setAttribute("aria-pressed", "false");
  },
};

// -- messages ------------------------------------------------------------------------------------------------------------

const AUDIO_FIELDS = { "raw-audio": "base64Audio", "bot-tts-audio": "audio" };
const BURST_MS = 2000; // audio closer together than this shares one entry
const bursts = new Map(); // type -> {details, at} of its latest entry
let logged = 0;

function record(direction, message) {
  const { type } = message;
  $("log-count").textContent = `${(logged += 1)}`;
  const log = $("log");
  if (type in AUDIO_FIELDS && joinBurst(type)) return;
  const follow = atEnd(log);
  const details = entry(direction, message);
  if (type in AUDIO_FIELDS) bursts.set(type, { details, at: performance.now() });
  log.append(details);
  trim(log, LOG_ENTRIES);
  if (follow) log.scrollTop = log.scrollHeight;
}

function joinBurst(type) {
  const burst = bursts.get(type);
  if (!burst?.details.isConnected || performance.now() - burst.at > BURST_MS) return false;
  burst.at = performance.now();
  burst.details.dataset.times = String(Number(burst.details.dataset.times) + 1);
  burst.details.querySelector(".times").textContent = `×${burst.details.dataset.times}`;
  return true;
}

function entry(direction, message) {
  const data = shown(message);
  const brief = data === undefined ? "" : JSON.stringify(data);
  const details = make("details", {},
    make("summary", {},
      make("time", { textContent: new Date().toTimeString().slice(0, 8) }),
      make("span", { className: "arrow", textContent: direction === "out" ? "→" : "←", ariaLabel: direction === "out" ? "sent" : "received" }),
      make("span", { className: "type", textContent: message.type }),
      make("span", { className: "times" }),
      make("span", { className: "brief", textContent: brief.slice(0, 300) })));
  Object.assign(details.dataset, { direction, type: message.type, times: "1", bad: String(message.type.startsWith("error")) });
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) {
      details.append(make("pre", { textContent: JSON.stringify({ ...message, data }, null, 2) }));
    }
  });
  return details;
}

function shown({ type, data }) {
  const field = AUDIO_FIELDS[type];
  return field && data?.[field] ? { ...data, [field]: `(${data[field].length} characters of base64)` } : data;
}

// -- actors ----------------------------------------------------------------------------------------------------------------

const rows = new Map(); // name -> row
const CELLS = ["depth", "handled", "failed", "restarts"];

async function poll() {
  try {
    const answer = await fetch(new URL("inspect", location.href));
    if (answer.ok) show(await answer.json());
  } catch {
    show({ actors: [], demo: false }); // the server has stopped
  }
  setTimeout(poll, POLL_MS);
}

function show({ actors, demo }) {
  const seen = new Set();
  const body = $("tree").tBodies[0];
  const walk = (node, level, parent) => {
    seen.add(node.name);
    const row = rows.get(node.name) ?? newRow(node, level, parent, demo);
    if (body.children[seen.size - 1] !== row) body.insertBefore(row, body.children[seen.size - 1] ?? null);
    update(row, node);
    for (const child of node.children) walk(child, level + 1, node.name);
  };
  for (const node of actors) walk(node, 0, "");
  for (const [name, row] of rows) {
    if (seen.has(name)) continue;
    row.remove();
    rows.delete(name);
  }
  $("actor-count").textContent = seen.size ? `${seen.size} running` : "";
  $("no-actors").hidden = seen.size > 0;
}

function newRow(node, level, parent, demo) {
  const short = parent && node.name.startsWith(`${parent}/`) ? node.name.slice(parent.length + 1) : node.name;
  const name = make("th", { scope: "row", title: `${node.name} (${node.class_name})` }, short);
  if (node.class_name.toLowerCase() !== short.toLowerCase()) name.append(make("small", { textContent: node.class_name }));
  name.style.setProperty("--level", String(level));
  const row = make("tr", {}, name, make("td", { className: "state" }));
  row.append(...CELLS.map((cell) => make("td", { className: cell })));
  const action = make("td");
  if (demo && level > 0) {
    const button = make("button", { type: "button", className: "crash", textContent: "crash", ariaLabel: `crash ${short}` });
    button.dataset.crash = node.name;
    action.append(button);
  }
  row.append(action);
  Object.assign(row.dataset, { actor: node.name, level: String(level), restarts: String(node.restarts) });
  rows.set(node.name, row);
  return row;
}

function update(row, node) {
  row.dataset.state = node.state;
  row.querySelector(".state").textContent = node.state;
  for (const cell of CELLS) {
    const field = row.querySelector(`.${cell}`);
    field.textContent = String(node[cell]);
    field.classList.toggle("zero", node[cell] === 0);
  }
  if (node.restarts > Number(row.dataset.restarts)) {
    row.classList.remove("flash");
    void row.offsetWidth; // restarts the animation
    row.classList.add("flash");
    $("announce").textContent = `${node.name} crashed and is back, restart ${node.restarts}`;
  }
  row.dataset.restarts = String(node.restarts);
}

async function crash(name) {
  const path = name.split("/").map(encodeURIComponent).join("/");
  const answer = await fetch(new URL(`inspect/${path}/kill`, location.href), { method: "POST" });
  if (!answer.ok) note((await answer.json()).detail, true);
}

// -- controls -----------------------------------------------------------------------------------------------------------------

$("connect").addEventListener("click", connect);
$("disconnect").addEventListener("click", () => socket?.close());
$("mic").addEventListener("click", () => microphone.toggle());
$("clear").addEventListener("click", () => $("log").replaceChildren());
$("tree").addEventListener("click", ({ target }) => target.dataset.crash && crash(target.dataset.crash));
$("interrupt").addEventListener("click", () => {
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(INTERRUPTION_FRAME);
  record("out", { type: "(interruption frame)" });
  player.flush();
});
$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = $("text").value.trim();
  if (!content) return;
  const id = send("send-text", { content, options: { run_immediately: true, audio_response: true } });
  if (!id) return;
  conversation.typedText(content, id);
  $("text").value = "";
});
poll();
