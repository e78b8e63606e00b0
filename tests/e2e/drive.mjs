// Runs scenarios in headless Chromium, one at a time, as they are asked for on standard input.
//
//   node drive.mjs SERVER_ORIGIN        in:  {"scenario": "sdk:send_text"}            one a line
//                                       out: {"scenario", "ok", "detail" | "error", "page_errors", "console", "wire"}
//
// `sdk:*`, `react:*` and their older generations run inside pages that this script serves, so on another origin than
// the server, as a web app would be; `demo:*` and `prebuilt:*` drive the pages that the server itself serves. `wire` has
// the RTVI messages that crossed a protobuf WebSocket. The first line out is {"ready": true}.
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { demo } from "./pages/demo.mjs";
import { prebuilt } from "./pages/prebuilt.mjs";
import { tone } from "./tone.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const BUILT = join(HERE, ".build");
const SCREENSHOTS = join(HERE, "screenshots");
const SCENARIO_MS = 40_000;
const PAGES = {
  sdk: { client: "v2", entry: "scenarios.js" },
  "sdk-1.2": { client: "v1.2", entry: "scenarios.js" },
  "sdk-1.0": { client: "v1.0", entry: "scenarios.js" },
  react: { client: "v2", entry: "react.jsx" },
  "react-1.2": { client: "v1.2", entry: "react.jsx" },
};
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8" };

const server = process.argv[2];
const at = { startUrl: `${server}/start`, wsUrl: await websocketUrl() };

// Where the WebSocket is, as the server tells everyone (PROTOCOL.md 3.1).
async function websocketUrl() {
  const answer = await fetch(`${server}/start`, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
  return (await answer.json()).wsUrl;
}

async function bundle() {
  await mkdir(SCREENSHOTS, { recursive: true });
  await Promise.all(Object.entries(PAGES).map(([kind, page]) => bundlePage(join(BUILT, kind), page)));
}

async function bundlePage(folder, { client, entry }) {
  const generation = join(HERE, "clients", client);
  await build({
    entryPoints: [join(HERE, "page", entry)],
    outfile: join(folder, "page.js"),
    alias: { sdk: join(generation, "sdk.js"), "sdk-react": join(generation, "react.js") },
    bundle: true,
    format: "esm",
    jsx: "automatic",
    sourcemap: true,
    logLevel: "error",
  });
  await copyFile(join(HERE, "page/index.html"), join(folder, "index.html"));
}

async function serve() {
  const site = createServer(async (request, response) => {
    const path = new URL(request.url, "http://x").pathname;
    const name = path.endsWith("/") ? `${path}index.html` : path;
    try {
      const body = await readFile(join(BUILT, name));
      response.writeHead(200, { "Content-Type": TYPES[extname(name)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  return site;
}

// PROTOCOL.md 7. The flags against background traffic keep Chromium from looking for hosts that tests must not need.
function launch(microphoneFile) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--autoplay-policy=no-user-gesture-required",
      "--use-fake-ui-for-media-stream",
      "--use-fake-device-for-media-stream",
      `--use-file-for-fake-audio-capture=${microphoneFile}`,
    ],
  });
}

const inPage = (site, kind) => ({
  async open(page) {
    await page.goto(`http://127.0.0.1:${site.address().port}/${kind}/`);
    await page.waitForFunction(() => window.scenarios);
  },
  run: (page, name) => page.evaluate(scenario, [name, at]),
});

// The SDK rejects with messages, of which nothing would be left on the way out of the page.
const scenario = ([name, at]) =>
  window.scenarios[name](at).catch((error) => {
    throw error instanceof Error ? error : new Error(JSON.stringify(error));
  });

const own = (scenarios) => ({
  open: async () => {},
  run: (page, name) => scenarios[name](page, server),
});

// The RTVI messages of the page's WebSockets, in order, as the wire has them: protobuf Frame{message{data}}.
function listen(page) {
  const wire = { sent: [], received: [] };
  const keep = (list) => ({ payload }) => {
    if (Buffer.isBuffer(payload) && payload[0] === 0x22) list.push(JSON.parse(payload.subarray(payload.indexOf('{"'))));
  };
  page.on("websocket", (socket) => {
    socket.on("framesent", keep(wire.sent));
    socket.on("framereceived", keep(wire.received));
  });
  return wire;
}

async function run(browser, kinds, scenario) {
  const [kind, name] = scenario.split(":");
  const context = await browser.newContext({ permissions: ["microphone", "camera"] });
  const page = await context.newPage();
  const report = { scenario, console: [], page_errors: [], wire: listen(page) };
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) report.console.push(message.text());
  });
  page.on("pageerror", (error) => report.page_errors.push(String(error)));
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${SCENARIO_MS} ms`)), SCENARIO_MS);
  });
  try {
    const detail = (async () => {
      await kinds[kind].open(page);
      return await kinds[kind].run(page, name);
    })();
    return { ...report, ok: true, detail: await Promise.race([detail, late]) };
  } catch (error) {
    return { ...report, ok: false, error: String(error?.message ?? error) };
  } finally {
    clearTimeout(timer);
    if (!kind.startsWith("sdk")) await page.screenshot({ path: join(SCREENSHOTS, `${kind}-${name}-end.png`) }).catch(() => {});
    await context.close().catch(() => {});
  }
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const scratch = await mkdtemp(join(tmpdir(), "rtvi-e2e-"));
const microphoneFile = join(scratch, "tone.wav");
await Promise.all([bundle(), writeFile(microphoneFile, tone())]);
const site = await serve();
const browser = await launch(microphoneFile);
const kinds = {
  ...Object.fromEntries(Object.keys(PAGES).map((kind) => [kind, inPage(site, kind)])),
  demo: own(demo),
  prebuilt: own(prebuilt),
};
try {
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    say(await run(browser, kinds, JSON.parse(line).scenario));
  }
} finally {
  await browser.close();
  site.close();
  await rm(scratch, { recursive: true, force: true });
}
