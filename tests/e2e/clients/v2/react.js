// What page/react.jsx imports as "sdk-react".
export * from "@pipecat-ai/client-react";
