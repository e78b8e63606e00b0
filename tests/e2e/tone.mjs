// What the fake microphone hears: 440 Hz, so that a test can tell the user's voice from silence, and its rate from a wrong one.
const RATE_HZ = 48_000;
const PITCH_HZ = 440;
const SECONDS = 4;
const LOUDNESS = 0.5;

// A WAV file: PCM16, mono. Chromium plays it in a loop; whole cycles, so the loop has no seam.
export function tone() {
  const samples = RATE_HZ * SECONDS;
  const file = Buffer.alloc(44 + samples * 2);
  file.write("RIFF", 0);
  file.writeUInt32LE(36 + samples * 2, 4);
  file.write("WAVEfmt ", 8);
  file.writeUInt32LE(16, 16);
  file.writeUInt16LE(1, 20);
  file.writeUInt16LE(1, 22);
  file.writeUInt32LE(RATE_HZ, 24);
  file.writeUInt32LE(RATE_HZ * 2, 28);
  file.writeUInt16LE(2, 32);
  file.writeUInt16LE(16, 34);
  file.write("data", 36);
  file.writeUInt32LE(samples * 2, 40);
  for (let i = 0; i < samples; i++) {
    file.writeInt16LE(Math.round(32767 * LOUDNESS * Math.sin((2 * Math.PI * PITCH_HZ * i) / RATE_HZ)), 44 + i * 2);
  }
  return file;
}
