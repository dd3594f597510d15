"use strict";

const WORDS = { audio: "sound", video: "picture" };
const state = { query: null, by: "audio", limits: null, shown: null, blobs: [] };

/* what is asked: state.query is {clip: number} or {file: File} */
async function search() {
  if (!state.query) return;
  const { clip, file } = state.query;
  const asked = new URLSearchParams({ by: state.by });
  if (file) asked.set("name", file.name);
  else asked.set("clip", clip);
  await request(`api/search?${asked}`, { file, limit: state.limits.bytes, status: "searching …", show });
}

function clear() {
  part("scale").hidden = true;
  part("matches").replaceChildren();
}

function show(answer) {
  const sound = answer.to === "audio";
  document.body.classList.toggle("to-audio", sound);
  part("hint").hidden = true;
  const found = sound ? "Sounds" : "Pictures", given = WORDS[answer.by];
  part("title").textContent = answer.by === answer.to ? `${found} like this ${given}` : `${found} that fit the ${given}`;
  part("status").textContent = `${answer.count} searched in ${answer.seconds.toFixed(2)} s`;
  showQuery(answer.query);
  showScale(answer);
  const span = answer.highest - answer.lowest || 1;
  state.blobs.splice(0).forEach((url) => URL.revokeObjectURL(url));
  part("matches").replaceChildren(...answer.matches.map((match, place) => card(match, place, answer, span)));
}

function showQuery(query) {
  const media = part("query-media");
  part("query").hidden = false;
  part("query-name").textContent = query.name;
  if (state.shown !== state.query) { // the direction alone does not load it again
    if (media.src.startsWith("blob:")) URL.revokeObjectURL(media.src);
    part("query-silent").hidden = true;
    media.hidden = !query.seconds; // a still
    stretch(media, query.media_start, query.seconds);
    if (!query.seconds) media.removeAttribute("src"), media.load();
    else media.src = state.query.file ? URL.createObjectURL(state.query.file) : query.url;
    state.shown = state.query;
  }
  media.classList.toggle("sound", !query.strip.length);
  spectrogram(part("query-spectrogram"), query.spectrogram);
  part("query-seconds").textContent = `${query.seconds.toFixed(1)} s`;
  part("query-strip").replaceChildren(...query.strip.map((source) => image(source, "")));
  part("query-strip").hidden = !query.strip.length;
}

/* how many clips of the index have which similarity, as a heat map with a tick for each match */
function showScale(answer) {
  const most = Math.max(...answer.spread, 1);
  const cells = answer.spread.map((count) => {
    const cell = document.createElement("i");
    cell.style.background = heat(Math.sqrt(count / most));
    cell.title = `${count}`;
    return cell;
  });
  const span = answer.highest - answer.lowest || 1;
  const ticks = answer.matches.map((match) => {
    const tick = document.createElement("b");
    tick.style.left = `calc(${(100 * (match.score - answer.lowest)) / span}% - 2px)`;
    return tick;
  });
  part("heat").replaceChildren(...cells, ...ticks);
  part("lowest").textContent = answer.lowest.toFixed(2);
  part("highest").textContent = answer.highest.toFixed(2);
  part("scale-text").textContent =
    `cosine similarity to ${answer.compared}: brighter where more of them are, ticks are the matches below`;
  part("scale").hidden = false;
}

function heat(share) {
  const stops = [[0, 0, 4], [80, 18, 123], [183, 55, 121], [251, 136, 97], [252, 253, 191]];
  const at = share * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  const mixed = stops[low].map((value, k) => Math.round(value + (at - low) * (stops[low + 1][k] - value)));
  return `rgb(${mixed})`;
}

function card(match, place, answer, span) {
  const item = part("match").content.firstElementChild.cloneNode(true);
  const get = (selector) => item.querySelector(selector);
  const video = get("video");
  item.dataset.clip = match.id;
  get(".rank").textContent = place + 1;
  get(".self").hidden = !match.self;
  get(".label").textContent = match.label || match.name;
  get(".name").textContent = match.name;
  get(".name").title = match.name;
  get(".score").textContent = match.score.toFixed(3);
  get(".bar span").style.width = `${(100 * (match.score - answer.lowest)) / span}%`;
  spectrogram(get(".spectrogram img"), match.spectrogram);
  if (match.poster) video.poster = match.poster;
  get(".hear").hidden = !match.url;
  get(".stage").style.aspectRatio = Math.min(Math.max(match.shape, 3 / 4), 16 / 9);
  stretch(video, match.media_start, match.seconds);
  follow(video, get(".spectrogram"));
  if (match.url) get(".stage").addEventListener("click", () => listen(item));
  video.autoplay = answer.to === "video" && !matchMedia("(prefers-reduced-motion: reduce)").matches;
  load(video, match, get(".failure"));
  return item;
}

/* small files are fetched whole: browsers put requests of media elements far back in their queue */
async function load(video, match, failure) {
  const fail = (sentence) => {
    failure.textContent = sentence;
    failure.hidden = false;
  };
  video.addEventListener("error", () => fail("This browser cannot play the file."));
  if (!match.url && !match.poster) return fail("Its file is not there any more.");
  if (match.bytes > 8e6) return (video.src = match.url);
  try {
    const reply = await fetch(match.url || match.poster, { signal: waiting.signal });
    if (!reply.ok) return fail((await reply.json()).error);
    if (!match.url) return; // a still, which is its poster
    video.src = URL.createObjectURL(await reply.blob());
    state.blobs.push(video.src);
  } catch (error) {
    if (error.name !== "AbortError") fail("The server does not answer.");
  }
}

function listen(item) {
  const on = !item.classList.contains("heard");
  for (const other of document.querySelectorAll(".matches li.heard")) {
    other.classList.remove("heard");
    other.querySelector("video").muted = true;
    other.querySelector(".hear").textContent = "listen";
    if (document.body.classList.contains("to-audio")) other.querySelector("video").pause();
  }
  if (!on) return;
  const video = item.querySelector("video");
  part("query-media").pause();
  item.classList.add("heard");
  item.querySelector(".hear").textContent = "playing";
  video.muted = false;
  if (video.readyState) video.currentTime = Number(video.dataset.start);
  play(video);
}

function ask(query) {
  state.query = query;
  for (const button of part("examples").children) {
    button.setAttribute("aria-pressed", String(button.dataset.clip === String(query.clip)));
  }
  return search();
}

function choose(by) {
  state.by = by;
  document.querySelector(`input[name=by][value=${by}]`).checked = true;
}

function examples(clips) {
  part("try").hidden = !clips.length;
  part("examples").replaceChildren(...clips.map((clip) => {
    const button = document.createElement("button"), name = document.createElement("span");
    button.type = "button";
    button.dataset.clip = clip.id;
    button.title = clip.name;
    name.textContent = clip.label || clip.name;
    if (clip.poster) button.append(image(clip.poster, ""));
    button.append(name);
    button.addEventListener("click", () => ask({ clip: clip.id }));
    return button;
  }));
}

async function begin() {
  const media = part("query-media");
  media.addEventListener("error", () => {
    media.hidden = true;
    part("query-silent").hidden = false;
  });
  follow(media, part("query-spectrogram").parentElement);
  for (const input of document.querySelectorAll("input[name=by]")) {
    input.addEventListener("change", () => { state.by = input.value; search(); });
  }
  takeFiles((file) => ask({ file }));
  takeRecordings({
    devices: { audio: true },
    seconds: () => state.limits.recording,
    stop: "Stop and search",
    failed: () => problem("The browser gave no access to a microphone; allow it for this page, or choose a file."),
    done: (file) => {
      choose("audio");
      ask({ file });
    },
  });
  const about = await (await fetch("api/about")).json();
  state.limits = about.limits;
  part("about").textContent = about.title;
  for (const input of document.querySelectorAll("input[name=by]")) {
    const to = about.directions[input.value];
    input.parentElement.hidden = !to;
    if (to) input.nextElementSibling.lastChild.textContent = ` ${WORDS[to]}`;
  }
  if (!about.directions.audio) part("record").hidden = true;
  choose(Object.keys(about.directions)[0]);
  part("limits").textContent =
    `video, sound or picture, up to ${megabytes(about.limits.bytes)} and ${Math.round(about.limits.seconds / 60)} minutes; ` +
    "nothing is kept, nothing leaves this server";
  examples(about.examples);
}

begin();
