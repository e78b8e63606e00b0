// Stands in for the one file that the prebuilt client loads from its media vendor's network (PROTOCOL.md 7): it hands
// out the microphone and camera that getUserMedia gives, and answers everything else with an empty reply.
// It runs in the page; the vendor's library, unmodified, talks to it with window messages.
(() => {
  const OFF = { state: "off" };
  const state = { local: { streams: { cam: {}, screen: {} } }, participants: {}, streams: {} };
  const on = { audio: false, video: false };

  const track = (kind) => ({ kind, state: on[kind] ? "playable" : "off", subscribed: true });
  const participant = () => ({
    session_id: "local-participant",
    user_id: "local-participant",
    user_name: "",
    local: true,
    owner: false,
    record: false,
    screen: false,
    audio: on.audio,
    video: on.video,
    tracks: { audio: track("audio"), video: track("video"), screenAudio: OFF, screenVideo: OFF },
    permissions: { hasPresence: true, canSend: true, canReceive: { base: true }, canAdmin: false },
  });

  async function startCamera({ properties = {} }) {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
    state.local.streams.cam.stream = stream;
    on.audio = properties.startAudioOff !== true;
    on.video = properties.startVideoOff !== true;
    const device = (of) => of && { deviceId: of.getSettings().deviceId, kind: `${of.kind}input`, label: of.label };
    return { mic: device(stream.getAudioTracks()[0]) ?? {}, camera: device(stream.getVideoTracks()[0]) ?? {}, speaker: {} };
  }

  function leave() {
    for (const track of state.local.streams.cam.stream?.getTracks() ?? []) track.stop();
    on.audio = on.video = false;
    return { action: "left-meeting" };
  }

  const actions = {
    "start-camera": startCamera,
    "local-audio": ({ state }) => void (on.audio = state),
    "local-video": ({ state }) => void (on.video = state),
    "leave-meeting": leave,
  };

  const say = (callClientId, message) =>
    window.postMessage({ what: "iframe-call-message", from: "embedded", callClientId, ...message }, "*");

  window.addEventListener("message", async ({ data }) => {
    if (data?.what !== "iframe-call-message" || data.from !== "module") return;
    const answer = (await actions[data.action]?.(data)) ?? {};
    say(data.callClientId, { action: data.action, callbackStamp: data.callbackStamp, ...answer });
    if (["start-camera", "local-audio", "local-video"].includes(data.action)) {
      say(data.callClientId, { action: "participant-updated", participant: participant() });
    }
  });

  for (const id of window._daily.pendings.splice(0)) {
    window._daily.instances[id] ??= {};
    window._daily.instances[id].callMachine = { reset() {}, store: { getState: () => state } };
    say(id, { action: "call-machine-initialized" });
  }
})();
