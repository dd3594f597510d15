"use strict";
/* what all pages do alike */

const part = (id) => document.getElementById(id);
const play = (media) => media.play().catch(() => {}); // the browser may want a click first
const megabytes = (bytes) => `${Math.round(bytes / 1e5) / 10} MB`;

function image(source, text) {
  const img = document.createElement("img");
  img.src = source;
  img.alt = text;
  return img;
}

let waiting = null; // the question that is out: a new one takes its place

/* `show` gets the answer; a file, where there is one, is sent along, and the server keeps nothing of it */
async function request(address, { file, limit, status, show }) {
  waiting?.abort();
  const own = (waiting = new AbortController());
  problem("");
  if (file && file.size > limit) {
    return problem(`'${file.name}' has ${megabytes(file.size)}; this page takes files up to ${megabytes(limit)}.`);
  }
  document.body.classList.add("busy");
  part("status").textContent = status;
  try {
    const reply = await fetch(address, { method: file ? "POST" : "GET", body: file, signal: own.signal });
    const answer = await reply.json();
    if (reply.ok) await show(answer);
    else problem(answer.error);
  } catch (error) {
    if (error.name === "AbortError") return;
    problem("The server does not answer: is it still running?");
  }
  if (waiting === own) document.body.classList.remove("busy");
}

/* what is wrong stands in place of an answer, of which each page's own `clear` takes away the rest */
function problem(sentence) {
  part("problem").textContent = sentence;
  part("problem").hidden = !sentence;
  if (!sentence) return;
  part("status").textContent = "";
  part("hint").hidden = true;
  clear();
  document.body.classList.remove("busy");
}

/* only a stretch of the medium is played, again and again */
function stretch(media, start, seconds) {
  media.dataset.start = start;
  media.dataset.seconds = seconds;
}

/* the line on the spectrogram goes along with the medium */
function follow(media, figure) {
  const line = figure.querySelector(".playhead");
  const step = () => {
    const start = Number(media.dataset.start), seconds = Number(media.dataset.seconds);
    const share = (media.currentTime - start) / seconds;
    if (share > 1.02 || share < -0.01) media.currentTime = start;
    figure.classList.toggle("playing", media.currentTime > 0);
    line.style.left = `${100 * Math.min(Math.max(share, 0), 1)}%`;
    if (!media.paused && media.isConnected) requestAnimationFrame(step);
  };
  for (const event of ["loadedmetadata", "play", "pause", "seeked"]) {
    media.addEventListener(event, () => requestAnimationFrame(step));
  }
}

function spectrogram(img, source) {
  img.parentElement.hidden = !source;
  if (source) img.src = source;
}

/* a file is chosen, or dropped anywhere on the page: beside the field as well, else the page is left */
function takeFiles(done) {
  part("file").addEventListener("change", (event) => {
    if (event.target.files[0]) done(event.target.files[0]);
    event.target.value = ""; // the same file may be chosen again
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      part("drop").classList.toggle("over", name === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    if (event.dataTransfer.files[0]) done(event.dataTransfer.files[0]);
  });
}

/* the button records what the devices give, up to some seconds; `shown` sees the stream meanwhile */
function takeRecordings({ devices, seconds, stop, done, failed, shown = () => {} }) {
  const button = part("record"), start = button.textContent;
  let recorder = null;
  // browsers offer devices to local and https pages only
  button.hidden = !(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);
  button.addEventListener("click", async () => {
    if (recorder) return recorder.stop();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia(devices);
    } catch {
      return failed();
    }
    const pieces = [];
    recorder = new MediaRecorder(stream);
    const end = setTimeout(() => recorder.stop(), 1000 * seconds());
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      const kind = recorder.mimeType;
      clearTimeout(end);
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      button.classList.remove("on");
      button.textContent = start;
      shown(null);
      const ending = kind.includes("mp4") ? (devices.video ? "mp4" : "m4a") : kind.includes("ogg") ? "ogg" : "webm";
      done(new File(pieces, `recording.${ending}`, { type: kind }));
    };
    recorder.start();
    button.classList.add("on");
    button.textContent = stop;
    shown(stream);
  });
}
