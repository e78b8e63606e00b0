// What page/* imports as "sdk": drive.mjs says which generation a page gets.
export { LogLevel, logger, PipecatClient, RTVIEvent, RTVIMessage } from "@pipecat-ai/client-js";
export { WavMediaManager, WebSocketTransport } from "@pipecat-ai/websocket-transport";
