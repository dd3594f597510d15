"use strict";

const state = { file: null, kind: "video", limits: null, shown: null, answer: null, sheet: null };

async function read() {
  const file = state.file;
  if (!file) return;
  const asked = new URLSearchParams({ kind: state.kind, name: file.name });
  await request(`api/read?${asked}`, {
    file, limit: state.limits.bytes, status: "reading …", show: (answer) => show(answer, file),
  });
}

function clear() {
  part("result").hidden = true;
  part("media").pause();
}

async function show(answer, file) {
  state.answer = answer;
  state.sheet = null;
  if (answer.mouths) {
    state.sheet = image(answer.mouths.url, "");
    await state.sheet.decode();
    part("crop").width = part("crop").height = answer.mouths.side;
  }
  part("hint").hidden = true;
  part("result").hidden = false;
  part("status").textContent = `${answer.seconds.toFixed(1)} s read in ${answer.took.toFixed(2)} s`;
  part("told").textContent = `${answer.name}: confidence ${percent(answer.confidence)}; ${answer.search}`;
  showMedia(file, answer);
  part("mouth").hidden = !answer.mouths;
  part("text").replaceChildren(...answer.words.flatMap((word) => [wordButton(word), " "]));
  if (!answer.words.length) part("text").append(nothing());
  part("words").replaceChildren(...answer.words.map((word) => {
    const button = wordButton(word);
    button.style.left = `${(100 * word.start) / answer.seconds}%`;
    button.style.width = `${(100 * (word.end - word.start)) / answer.seconds}%`;
    return button;
  }));
  spectrogram(part("spectrogram"), answer.spectrogram);
  at(part("media").hidden ? 0 : part("media").currentTime);
}

function showMedia(file, { mouths, preview }) {
  const media = part("media");
  media.classList.toggle("sound", !mouths && !media.videoWidth);
  if (state.shown === file) return; // another kind of reading does not load it again
  if (media.src.startsWith("blob:")) URL.revokeObjectURL(media.src);
  state.shown = file;
  media.hidden = false;
  part("silent").hidden = true;
  media.src = URL.createObjectURL(preview ? unpacked(preview) : file);
}

/* a copy of what browsers do not play */
function unpacked(preview) {
  const bytes = Uint8Array.from(atob(preview), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "video/mp4" });
}

function wordButton(word) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = word.text;
  button.title = `${word.text}: ${word.start.toFixed(2)} to ${word.end.toFixed(2)} s, confidence ${percent(word.confidence)}`;
  button.dataset.start = word.start;
  button.dataset.end = word.end;
  button.style.opacity = 0.35 + 0.65 * word.confidence;
  button.addEventListener("click", () => {
    part("media").currentTime = word.start;
    at(word.start);
  });
  return button;
}

function nothing() {
  const text = document.createElement("span");
  text.className = "nothing";
  text.textContent = "nothing was said";
  return text;
}

/* what belongs to a moment of the clip: the word, the mouth, the line */
function at(time) {
  const { seconds, mouths } = state.answer;
  part("result").querySelector(".playhead").style.left = `${100 * Math.min(time / seconds, 1)}%`;
  for (const button of part("result").querySelectorAll("[data-start]")) {
    const said = time >= Number(button.dataset.start) && time < Number(button.dataset.end);
    button.classList.toggle("said", said);
  }
  if (!state.sheet) return;
  const frame = Math.min(Math.floor(time * mouths.rate + 1e-6), mouths.frames - 1);
  const left = (frame % mouths.columns) * mouths.side, top = Math.floor(frame / mouths.columns) * mouths.side;
  const side = mouths.side;
  part("crop").getContext("2d").drawImage(state.sheet, left, top, side, side, 0, 0, side, side);
}

const percent = (share) => `${Math.round(100 * share)} %`;

function camera(stream) {
  const video = part("camera");
  video.hidden = !stream;
  video.srcObject = stream;
  if (stream) play(video);
}

async function begin() {
  const media = part("media");
  media.addEventListener("error", () => {
    if (!media.src) return;
    media.hidden = true;
    part("silent").hidden = false;
  });
  const step = () => {
    if (state.answer) at(media.currentTime);
    if (!media.paused) requestAnimationFrame(step);
  };
  for (const event of ["loadedmetadata", "play", "pause", "seeked"]) media.addEventListener(event, step);
  media.addEventListener("loadedmetadata", () => media.classList.toggle("sound", !media.videoWidth));
  for (const input of document.querySelectorAll("input[name=kind]")) {
    input.addEventListener("change", () => { state.kind = input.value; read(); });
  }
  const ask = (file) => { state.file = file; read(); };
  takeFiles(ask);
  takeRecordings({
    devices: { video: { facingMode: "user", width: 640, height: 480, frameRate: 25 }, audio: true },
    seconds: () => state.limits.recording,
    stop: "Stop and read",
    shown: camera,
    failed: () => problem("The browser gave no access to a camera and microphone; allow it for this page, or choose a file."),
    done: ask,
  });
  const about = await (await fetch("api/about")).json();
  state.limits = about.limits;
  part("about").textContent = about.title;
  for (const input of document.querySelectorAll("input[name=kind]")) {
    input.disabled = !about.kinds.includes(input.value);
    input.checked = input.value === about.kinds[0];
  }
  state.kind = about.kinds[0];
  part("limits").textContent =
    `up to ${megabytes(about.limits.bytes)} and ${Math.round(about.limits.seconds)} s; nothing is kept, nothing leaves this server`;
  document.body.dataset.ready = "yes";
}

begin();
