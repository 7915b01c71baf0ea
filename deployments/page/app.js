"use strict";
// Draws a picture by the public API, as any other caller would.

const GENERATIONS = "/v1/images/generations";
const POOLS_EVERY_MS = 5000;
const GALLERY_MOST = 60;
const SIZES = [
  "256x256", "512x512", "512x384", "384x512", "768x768", "1024x1024",
  "1280x720", "720x1280", "1536x1024", "1024x1536",
];
const $ = (id) => document.getElementById(id);

let language = localStorage.getItem("language")
  || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
let running = null; // the AbortController of the call that runs
let shown = null; // the picture on the stage
let pools = null; // the last answer of /readyz
let limits = null; // what the model may draw

const say = (name, values = {}) =>
  WORDS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);

function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const it of document.querySelectorAll("[data-word]")) it.textContent = say(it.dataset.word);
  for (const it of document.querySelectorAll("[data-placeholder]"))
    it.placeholder = say(it.dataset.placeholder);
  for (const it of document.querySelectorAll("[data-label]"))
    it.setAttribute("aria-label", say(it.dataset.label));
  $("language").textContent = language === "zh" ? "English" : "中文";
  $("language").lang = language === "zh" ? "en" : "zh";
  for (const it of $("gallery").querySelectorAll("button")) it.setAttribute("aria-label", say("show", it.picture));
  if (shown) caption(shown);
  tellDefaultSize();
  tellPools();
}

// --- what is asked for -------------------------------------------------------------------------

async function askLimits() {
  try {
    limits = await (await fetch("/page/limits.json")).json();
  } catch {
    return; // a size can still be written
  }
  const options = SIZES.filter(isDrawn).map((size) => new Option(size));
  $("size").querySelector("[value=custom]").before(...options);
  tellDefaultSize();
}

function isDrawn(size) {
  const [width, height] = size.split("x").map(Number);
  return Math.min(width, height) >= limits.min_side && width <= limits.max_width
    && height <= limits.max_height && width * height <= limits.max_pixels;
}

function tellDefaultSize() {
  if (limits) $("size").options[0].textContent = say("autoOf", { size: limits.default_size });
}

function readBody() {
  const size = $("size").value === "custom" ? $("custom").value.trim() : $("size").value;
  const seed = $("seed").value.trim();
  return {
    prompt: $("prompt").value, size, num_inference_steps: Number($("steps").value),
    priority: $("priority").value, ...(seed === "" ? {} : { seed: BigInt(seed) }),
  };
}

// JSON.stringify knows no BigInt, and seeds go beyond what a number holds exactly.
const toJson = (body) => {
  const { seed, ...rest } = body;
  const text = JSON.stringify(rest);
  return seed === undefined ? text : `${text.slice(0, -1)},"seed":${seed}}`;
};

function findMistake() {
  if ($("prompt").value.trim() === "") return ["prompt", say("needsPrompt")];
  if ($("size").value === "custom" && !/^[1-9]\d*x[1-9]\d*$/.test($("custom").value.trim()))
    return ["custom", say("needsSize")];
  if (!/^\d*$/.test($("seed").value.trim())) return ["seed", `${say("seed")}: 0 – 2⁶³ − 1`];
  return null;
}

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const pythonQuote = (text) => JSON.stringify(text);

const readKey = () => $("key").value.trim();
const authorization = () => (readKey() === "" ? {} : { authorization: `Bearer ${readKey()}` });

function askForKey() {
  $("key-field").hidden = false;
  $("key").focus();
}

// What is copied names a variable instead of the key: copied text ends up in chats and histories.
function asCurl() {
  return `curl ${location.origin}${GENERATIONS} \\\n  -H 'content-type: application/json' \\\n`
    + (readKey() === "" ? "" : `  -H "authorization: Bearer $API_KEY" \\\n`)
    + `  -d ${shellQuote(toJson(readBody()))}`;
}

function asPython() {
  const { prompt, size, seed, ...extra } = readBody();
  const more = Object.entries(extra).map(([key, value]) => `"${key}": ${JSON.stringify(value)}`);
  if (seed !== undefined) more.push(`"seed": ${seed}`);
  const key = readKey() === "" ? `"unused"` : `os.environ["API_KEY"]`;
  return `${readKey() === "" ? "" : "import os\n\n"}from openai import OpenAI\n\n`
    + `client = OpenAI(base_url="${location.origin}/v1", api_key=${key})\n`
    + `answer = client.images.generate(\n    prompt=${pythonQuote(prompt)},\n    size="${size}",\n`
    + `    extra_body={${more.join(", ")}},\n)\nprint(answer.data[0].url)\n`;
}

async function copy(text) {
  $("code").textContent = text;
  try {
    await navigator.clipboard.writeText(text);
    $("copied").textContent = say("copied");
  } catch {
    $("copied").textContent = say("notCopied"); // no clipboard outside https and localhost
  }
}

// --- drawing -----------------------------------------------------------------------------------

async function draw() {
  const mistake = findMistake();
  if (mistake) return fail(mistake[1], mistake[0]);
  fail(null);
  const body = readBody();
  const started = performance.now();
  let ending = null;
  running = new AbortController();
  setRunning(true);
  $("caption").textContent = say("waiting");
  try {
    const response = await fetch(GENERATIONS, {
      method: "POST", headers: { "content-type": "application/json", ...authorization() },
      signal: running.signal,
      body: toJson({ ...body, stream: true, partial_images: 3, progress_events: true }),
    });
    if (!response.ok) return await refuse(response);
    for await (const event of readEvents(response.body)) follow(event, body, started);
    if (!$("progress").hidden) fail(say("lost"));
  } catch (error) {
    if (error.name === "AbortError") ending = say("stopped");
    else fail(say("lost"));
  } finally {
    running = null;
    setRunning(false);
    if (ending) $("caption").textContent = ending;
  }
}

async function* readEvents(stream) {
  let text = "";
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((each) => each.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6), keepSeed);
    }
  }
}

// A seed beyond 2^53 is kept as it was written where the browser offers its source.
const keepSeed = (key, value, context) =>
  key === "seed" && context?.source ? context.source : value;

function follow(event, body, started) {
  if (event.error) return fail(withRetry(event.error.message, event.retry_after_s));
  if (event.type === "image_generation.progress") {
    $("progress").max = event.num_inference_steps;
    $("progress").value = event.step;
    const values = { step: event.step, total: event.num_inference_steps };
    $("caption").textContent = say("step", values);
    return;
  }
  const url = toUrl(event);
  if (event.type === "image_generation.partial_image") return showPicture(url, true);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const picture = {
    url, body, seed: String(event.seed), size: event.size, seconds, prompt: body.prompt,
    name: `${event.key.split("/").at(-2)}.${event.output_format}`,
  };
  select(picture);
  addToGallery(picture);
  $("progress").hidden = true;
}

function toUrl(event) {
  const bytes = Uint8Array.from(atob(event.b64_json), (each) => each.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: `image/${event.output_format}` }));
}

async function refuse(response) {
  const answer = await response.json();
  if (response.status === 401) askForKey();
  fail(withRetry(answer.error.message, response.headers.get("retry-after")), answer.error.param);
}

const withRetry = (message, seconds) =>
  seconds ? say("retry", { message: `${message}.`, seconds }) : message;

function fail(message, field) {
  $("error").hidden = message === null;
  $("error").textContent = message ?? "";
  for (const it of document.querySelectorAll("[aria-invalid]")) it.removeAttribute("aria-invalid");
  if (message === null) return;
  $("caption").textContent = shown ? $("caption").textContent : "";
  $("progress").hidden = true;
  const input = field && $(toInput(field));
  if (input) {
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }
}

function toInput(field) {
  if (field === "size" && $("size").value === "custom") return "custom";
  return field === "num_inference_steps" ? "steps" : field;
}

function setRunning(isRunning) {
  $("draw").disabled = isRunning;
  $("stop").hidden = !isRunning;
  $("progress").hidden = !isRunning;
  $("progress").removeAttribute("value");
  $("stage").setAttribute("aria-busy", isRunning);
  if (!isRunning && shown) select(shown);
  if (isRunning) $("stage").scrollIntoView({ block: "nearest" });
}

// --- pictures ----------------------------------------------------------------------------------

function showPicture(url, isPreview) {
  const image = $("picture");
  const previous = image.src;
  image.src = url;
  image.hidden = false;
  image.classList.toggle("preview", isPreview);
  $("empty").hidden = true;
  if (previous.startsWith("blob:") && image.dataset.preview === "true") URL.revokeObjectURL(previous);
  image.dataset.preview = String(isPreview);
}

function select(picture) {
  shown = picture;
  showPicture(picture.url, false);
  $("picture").alt = picture.prompt;
  $("picture-actions").hidden = false;
  $("download").href = picture.url;
  $("download").download = picture.name;
  caption(picture);
  for (const it of $("gallery").querySelectorAll("button"))
    it.setAttribute("aria-pressed", String(it.picture === picture));
}

function caption(picture) {
  $("caption").textContent = say("done", picture);
}

function addToGallery(picture) {
  const button = document.createElement("button");
  button.type = "button";
  button.picture = picture;
  button.title = picture.prompt;
  button.setAttribute("aria-label", say("show", picture));
  button.append(Object.assign(new Image(), { src: picture.url, alt: "" }));
  button.addEventListener("click", () => select(picture));
  const item = document.createElement("li");
  item.append(button);
  $("gallery").prepend(item);
  $("no-gallery").hidden = true;
  while ($("gallery").children.length > GALLERY_MOST) {
    const oldest = $("gallery").lastChild;
    URL.revokeObjectURL(oldest.firstChild.picture.url);
    oldest.remove();
  }
  select(picture);
}

function useSettings() {
  const { body, seed } = shown;
  $("prompt").value = body.prompt;
  const isListed = [...$("size").options].some((option) => option.value === body.size);
  $("size").value = isListed ? body.size : "custom";
  $("custom").value = isListed ? "" : body.size;
  $("custom").hidden = isListed;
  $("steps").value = $("steps-value").value = body.num_inference_steps;
  $("seed").value = seed;
  $("priority").value = body.priority;
  $("code").textContent = "";
  $("prompt").focus();
}

// --- the service's state -----------------------------------------------------------------------

async function askPools() {
  try {
    pools = await (await fetch("/readyz")).json();
  } catch {
    pools = null;
  }
  tellPools();
}

function tellPools() {
  const dot = (state) => Object.assign(document.createElement("i"), { className: state });
  if (!pools) return $("pools").replaceChildren(dot("bad"), say("unreachable"));
  const parts = Object.entries(pools.pools).map(([name, isReady]) => {
    const it = document.createElement("span");
    const state = say(isReady ? "ready" : "starting");
    it.append(dot(isReady ? "good" : "waiting"), `${say("pool")} ${name} · ${state}`);
    return it;
  });
  const text = parts.map((part) => part.textContent).join();
  if ($("pools").textContent !== text) $("pools").replaceChildren(...parts);
}

// --- wiring ------------------------------------------------------------------------------------

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); if (!running) draw(); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("stop").addEventListener("click", () => running?.abort());
$("steps").addEventListener("input", () => { $("steps-value").value = $("steps").value; });
$("size").addEventListener("change", () => {
  $("custom").hidden = $("size").value !== "custom";
  if (!$("custom").hidden) $("custom").focus();
});
$("key").value = sessionStorage.getItem("key") ?? "";
$("key-field").hidden = readKey() === "";
$("key").addEventListener("change", () => sessionStorage.setItem("key", readKey()));
$("copy-curl").addEventListener("click", () => copy(asCurl()));
$("copy-python").addEventListener("click", () => copy(asPython()));
$("again").addEventListener("click", useSettings);
$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  translate();
});
$("theme").addEventListener("click", () => {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
  setTheme(isDark ? "light" : "dark");
});

if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme"));
translate();
askLimits();
askPools();
setInterval(() => { if (!document.hidden) askPools(); }, POOLS_EVERY_MS);
