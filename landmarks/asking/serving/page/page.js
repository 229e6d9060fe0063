// The query tab, and which tab is shown. The address after # says everything, so back and links work:
// #/photo/12?distance=L2&rerank=two, #/query/3 (of the evaluation), #/upload/1, #/evaluation.

import { ask, bar, count, far, fileName, h, isolated, named, pathParts, picture, spoken } from "./dom.js";
import { showEvaluation } from "./evaluation.js";

const PAGE = 24; // photos of the index at a time
const RESULTS = [12, 48, 200];
const UNTYPED = { "Content-Type": "application/octet-stream" }; // the server tells by the content better what a file is
const LONG = 40; // characters of a landmark, beyond which it is no headline

const byId = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const uploads = new Map(); // from the number in the address to { file, url }

let options = null; // what /api/options says
let shown = null; // the address of the photo whose answer is on the page
let pending = new AbortController();
let clicked = false; // whether this address was reached by a click, not by going back

// ---- addresses

function parse() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view = "", id = ""] = path.split("/");
  return { view, id, params: new URLSearchParams(search) };
}

/** How the address says to search; what it does not say is as in params.yaml. */
function chosen(params) {
  const known = (name, methods) =>
    methods.some((method) => method.name === params.get(name)) ? params.get(name) : options[name];
  const top = Number(params.get("top"));
  return {
    distance: known("distance", options.distances),
    rerank: known("rerank", options.reranks),
    top: RESULTS.includes(top) ? top : RESULTS[0],
  };
}

function address(view, id, how) {
  const search = new URLSearchParams();
  for (const name of ["distance", "rerank"]) if (how[name] !== options[name]) search.set(name, how[name]);
  if (how.top && how.top !== RESULTS[0]) search.set("top", how.top);
  return `#/${view}/${id}${search.size ? `?${search}` : ""}`;
}

/** Where the answer and the pictures of a photo are. */
function sourceOf(view, id) {
  if (view === "photo") return { base: `/api/photos/${encodeURIComponent(id)}` };
  if (view === "query") return { base: `/api/evaluation/queries/${encodeURIComponent(id)}` };
  if (view === "upload") return uploads.get(id) ?? {};
  return null;
}

// ---- the answer

async function show() {
  const { view, id, params } = parse();
  pending.abort();
  pending = new AbortController();
  const { signal } = pending;
  const evaluation = view === "evaluation";
  byId("query").hidden = evaluation;
  byId("evaluation").hidden = !evaluation;
  for (const link of document.querySelectorAll("nav a")) {
    const here = (link.dataset.view === "evaluation") === evaluation;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  problem();
  if (clicked && !(evaluation && params.size)) scrollTo(0, 0);
  try {
    if (evaluation) await busy(showEvaluation(byId("evaluation"), params, signal), signal);
    else await busy(showQuery(view, id, params, signal), signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof TypeError) console.error(error);
    problem(error.message);
  }
  if (!signal.aborted) clicked = false;
}

async function showQuery(view, id, params, signal) {
  options ??= await loadOptions();
  const source = sourceOf(view, id);
  byId("start").hidden = Boolean(source);
  byId("browse-title").textContent = source ? "Photos of the index" : "Or start from a photo of the index";
  if (!source || (view === "upload" && !source.file)) {
    byId("start").hidden = false;
    byId("asked").hidden = true;
    shown = null;
    document.title = "Landmarks";
    if (source) throw new Error("The photo was not kept when the page was loaded again. Choose it once more.");
    return;
  }
  const how = chosen(params);
  const place = `${view}/${id}`;
  if (shown !== place) {
    showPhoto(source);
    byId("results").setAttribute("aria-busy", "true");
    byId("asked").classList.add("waiting");
  }
  byId("asked").hidden = false;
  check("distance", how.distance);
  check("rerank", how.rerank);
  const search = new URLSearchParams(how);
  let answer;
  try {
    answer = source.file
      ? await ask(`/api/answer?${search}`, { method: "POST", headers: UNTYPED, body: source.file, signal })
      : await ask(`${source.base}/answer?${search}`, { signal });
  } catch (error) {
    if (error.name !== "AbortError") {
      byId("asked").hidden = true;
      byId("start").hidden = false;
      shown = null;
    }
    throw error;
  }
  fill(answer, how, shown === place);
  shown = place;
}

function showPhoto(source) {
  const url = source.url ?? `${source.base}/photo`;
  const name = source.file ? source.file.name || "pasted photo" : "";
  byId("photo").replaceChildren(
    picture(url, name ? `The photo that is asked about: ${name}` : "The photo that is asked about", { lazy: false }),
    h("figcaption", {}, h("bdi", {}, name)),
  );
}

function fill(answer, how, again) {
  const { landmark, query, votes, results } = answer;
  const heading = byId("landmark");
  heading.replaceChildren(landmark === null ? "No landmark" : named(landmark));
  heading.classList.toggle("long", heading.textContent.length > LONG);
  byId("verdict-label").textContent = landmark === null ? "The photo resembles" : "Predicted landmark";
  document.title = `${heading.textContent} · Landmarks`;
  if (query) byId("photo").querySelector("figcaption").replaceChildren(...pathParts(query.path));

  const right = query && query.landmark === landmark;
  byId("truth").hidden = !query;
  byId("truth").className = right ? "truth right" : "truth wrong";
  if (query) {
    byId("truth").replaceChildren(
      ...(right ? ["✓ as it is catalogued"] : ["✕ it is catalogued as ", named(query.landmark)]));
  }

  const total = votes.reduce((sum, vote) => sum + vote.votes, 0);
  byId("votes").hidden = !total;
  byId("votes").replaceChildren(
    h("caption", { class: "hidden" }, "Votes of the nearest photos"),
    h("tbody", {}, votes.map((vote) =>
      h("tr", {},
        h("th", { scope: "row", title: vote.landmark }, named(vote.landmark)),
        h("td", { class: "wide" }, bar(vote.votes / total)),
        h("td", { class: "figure" }, `${vote.votes} of ${total}`)))),
  );
  const method = options.distances.find((one) => one.name === answer.distance);
  byId("nearest").textContent =
    `Nearest photo at ${far(answer.nearest)} (${answer.distance}${method?.title ? `, ${method.title}` : ""}). ` +
    `Answered in ${Math.max(1, Math.round(answer.milliseconds.describe + answer.milliseconds.search))} ms.`;

  byId("legend").hidden = landmark === null;
  byId("legend").replaceChildren(h("bdi", {}, heading.textContent));
  byId("asked").classList.remove("waiting");
  arrange(results, landmark, how, again);
  const next = RESULTS.find((top) => top > how.top);
  byId("more-results").hidden = results.length < how.top || !next;
  byId("more-results").dataset.top = next;
  byId("status").textContent =
    `${heading.textContent}. ${results.length} results by ${answer.distance}, re-ranking ${answer.rerank}.`;
  if (clicked) heading.focus({ preventScroll: true });
}

// ---- the results

/** Put the results in order. Tiles of photos that stay move to their new place, and say how far they came. */
function arrange(results, landmark, how, again) {
  const list = byId("results");
  const old = new Map([...list.children].filter((tile) => tile.dataset.row).map((tile) => [tile.dataset.row, tile]));
  const before = new Map([...old].map(([row, tile]) => [row, tile.getBoundingClientRect()]));
  const ranks = new Map([...old].map(([row, tile]) => [row, Number(tile.dataset.rank)]));
  const tiles = results.map((result) => {
    const row = String(result.row);
    const tile = old.get(row) ?? resultTile(result);
    tile.dataset.rank = result.rank;
    tile.classList.toggle("voted", result.landmark === landmark);
    tile.querySelector("a").href = address("photo", row, { ...how, top: null });
    tile.querySelector(".rank").textContent = result.rank;
    tile.querySelector(".far").textContent = far(result.distance);
    const moved = again && result.rank <= ranks.size ? move(ranks.get(row), result.rank) : null;
    tile.querySelector(".move").replaceChildren(...(moved ? [moved] : []));
    return tile;
  });
  list.removeAttribute("aria-busy");
  list.replaceChildren(...(tiles.length ? tiles : [h("li", { class: "none" }, "The index has no other photo.")]));
  if (!again || still.matches) return;
  for (const tile of tiles) {
    const from = before.get(tile.dataset.row);
    const to = tile.getBoundingClientRect();
    if (!from) tile.animate({ opacity: [0, 1] }, 250);
    else if (from.x !== to.x || from.y !== to.y) {
      tile.animate(
        { transform: [`translate(${from.x - to.x}px, ${from.y - to.y}px)`, "none"] },
        { duration: 420, easing: "cubic-bezier(0.2, 0.7, 0.2, 1)" },
      );
    }
  }
}

function resultTile(result) {
  return h("li", { class: "tile", "data-row": result.row },
    h("a", { title: result.path },
      picture(`/api/photos/${result.row}/thumbnail`, `Photo of ${spoken(result.landmark)}`),
      h("span", { class: "rank" }),
      named(result.landmark, { class: "name" }),
      h("span", { class: "detail" }, fileName(result.path),
        h("span", { class: "move" }), h("span", { class: "far", title: "Distance" }))));
}

function move(was, is) {
  if (was === is) return null;
  if (was === undefined) return h("span", { class: "up" }, "new");
  const up = was > is;
  return h("span", { class: up ? "up" : "down" },
    h("span", { "aria-hidden": "true" }, `${up ? "↑" : "↓"}${Math.abs(was - is)}`),
    h("span", { class: "hidden" }, `${up ? "up" : "down"} ${Math.abs(was - is)}`));
}

// ---- the index

let photosShown = 0;

async function browse(more) {
  const landmark = byId("pick").value;
  if (!more) photosShown = 0;
  const search = new URLSearchParams({ offset: photosShown, limit: PAGE, ...(landmark && { landmark }) });
  const { total, photos } = await ask(`/api/photos?${search}`);
  if (landmark !== byId("pick").value) return;
  const tiles = photos.map((photo) =>
    h("li", { class: "tile" },
      h("a", { href: `#/photo/${photo.row}`, title: photo.path },
        picture(`/api/photos/${photo.row}/thumbnail`, `Photo of ${spoken(photo.landmark)}`),
        named(photo.landmark, { class: "name" }),
        h("span", { class: "detail" }, fileName(photo.path)))));
  if (more) byId("browse").append(...tiles);
  else byId("browse").replaceChildren(...tiles);
  if (more) tiles[0]?.querySelector("a").focus();
  photosShown += photos.length;
  byId("more-photos").hidden = photosShown >= total;
}

// ---- options

async function loadOptions() {
  const loaded = await ask("/api/options");
  byId("about").textContent =
    `${count(loaded.photos, "photo")} of ${count(loaded.landmarks.length, "landmark")} · ${loaded.model}`;
  byId("limits").textContent =
    `${loaded.formats.join(", ")}; up to ${loaded.max_bytes >> 20} MB and ${loaded.max_pixels / 1e6} megapixels`;
  methods("distance", loaded.distances);
  methods("rerank", loaded.reranks);
  byId("pick").replaceChildren(
    h("option", { value: "" }, `All ${loaded.landmarks.length}`),
    ...loaded.landmarks.map((one) => h("option", { value: one.name }, `${isolated(spoken(one.name))} (${one.photos})`)),
  );
  return loaded;
}

function methods(name, list) {
  const field = byId(`${name}s`);
  field.querySelector(".choices")?.remove(); // loaded twice where the address changed meanwhile
  field.append(
    h("span", { class: "choices" }, list.map((method) =>
      h("label", { title: method.title || null },
        h("input", { type: "radio", name, value: method.name, change: () => choose({ [name]: method.name }) }),
        h("span", {}, method.name, method.title && h("span", { class: "hidden" }, ` ${method.title}`))))),
  );
}

function check(name, value) {
  for (const input of byId(`${name}s`).querySelectorAll("input")) input.checked = input.value === value;
}

function choose(change) {
  const { view, id, params } = parse();
  history.replaceState(null, "", address(view, id, { ...chosen(params), ...change }));
  show();
}

// ---- photos from the user

function upload(file) {
  if (!file) return;
  if (options && file.size > options.max_bytes) {
    problem(h("bdi", {}, file.name || "The photo"), ` has ${Math.ceil(file.size / 2 ** 20)} MB, more than ${options.max_bytes >> 20}.`);
    return;
  }
  const id = String(uploads.size + 1);
  uploads.set(id, { file, url: URL.createObjectURL(file) });
  clicked = true;
  location.hash = `#/upload/${id}`;
}

const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  byId("landing").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) byId("landing").classList.remove("over");
});
addEventListener("drop", (event) => {
  byId("landing").classList.remove("over");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  upload(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) upload(file);
});
for (const button of document.querySelectorAll(".choose")) {
  button.addEventListener("click", () => byId("file").click());
}
byId("file").addEventListener("change", (event) => {
  upload(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});

// ---- the rest

function problem(...message) {
  byId("problem").hidden = !message.length;
  byId("problem").replaceChildren(...message);
}

/** Show that something is under way, unless it is over at once. */
async function busy(work, signal) {
  const timer = setTimeout(() => byId("progress").classList.add("on"), 150);
  try {
    await work;
  } finally {
    clearTimeout(timer);
    if (!signal.aborted) byId("progress").classList.remove("on");
  }
}

document.addEventListener("click", (event) => {
  if (event.target.closest("a[href^='#/']")) clicked = true;
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
byId("pick").addEventListener("change", () => browse(false).catch((error) => problem(error.message)));
byId("more-photos").addEventListener("click", () => browse(true).catch((error) => problem(error.message)));
byId("more-results").addEventListener("click", (event) => choose({ top: Number(event.target.dataset.top) }));
addEventListener("hashchange", show);

await show();
await browse(false).catch((error) => problem(error.message));
