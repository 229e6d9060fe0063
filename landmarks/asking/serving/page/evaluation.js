// The evaluation tab: what `dvc repro` left in reports/, drawn.

import { ask, bar, count, far, fileName, h, isolated, named, picture, s, spoken } from "./dom.js";

const MATRIX = 30; // with more landmarks a matrix cannot be read, and a list of confusions is
const CASES = 8; // queries at a time

const MEANING = {
  accuracy: ["Accuracy", "of the queries get the right landmark"],
  map: ["mAP", "mean average precision over the full ranking"],
  map_reference: ["mAP, reference", "precision at 1 to 5, 0 where the first is wrong"],
  precision_at_1: ["Precision at 1", "of the first results are right"],
  precision_at_5: ["Precision at 5", "of the first five results are right"],
  recall_at_5: ["Recall at 5", "of the queries have a right one in the first five"],
  map_oxford: ["mAP, Oxford5k", "area under the precision-recall curve, good and ok"],
  map_easy: ["mAP, Easy", "revisited: easy, without hard"],
  map_medium: ["mAP, Medium", "revisited: easy and hard"],
  map_hard: ["mAP, Hard", "revisited: hard, without easy"],
};
const SETUPS = { oxford: "Oxford5k", easy: "Easy", medium: "Medium", hard: "Hard" };
const PARTS = [
  [/^queries/, () => ["Queries", "that have a photo to find"]],
  [/^positives/, () => ["Relevant photos", "of the index, summed over the queries"]],
  [/^junk/, () => ["Junk", "photos that count neither way, summed over the queries"]],
  [/^mp_at_(\d+)/, (k) => [`Precision at ${k}`, `of the first ${k} results, or up to the last relevant one`]],
];
const COUNTED = /^(queries|positives|junk)(_|$)/;

const fixed = (number) => (number === null ? "n/a" : number.toFixed(3));
const here = (params) => `#/evaluation${params ? `?${new URLSearchParams(params)}` : ""}`;

let drawn = ""; // the figures on the page, as JSON

/** Draw the evaluation into `place`; `params` may ask for the queries of one kind. */
export async function showEvaluation(place, params, signal) {
  document.title = "Evaluation · Landmarks";
  if (!drawn) place.replaceChildren(h("h1", {}, "Evaluation"), h("p", { class: "small" }, "Reading the reports …"));
  let figures;
  try {
    figures = await ask("/api/evaluation", { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    drawn = "";
    place.replaceChildren(
      h("h1", {}, "Evaluation"),
      h("div", { class: "problem", role: "alert" }, "There is no evaluation to show. ", error.message),
    );
    return;
  }
  if (drawn !== JSON.stringify(figures)) {
    place.replaceChildren(...draw(figures));
    drawn = JSON.stringify(figures);
  }
  await showCases(place.querySelector("#cases"), params, signal);
}

function draw({ metrics, landmarks, confusion, curve }) {
  const { queries, index, ...others } = metrics;
  const figures = Object.entries(others).filter(([name]) => !/_(low|high)$/.test(name));
  return [
    h("div", { class: "title" },
      h("h1", {}, "Evaluation"),
      queries && index && h("p", {}, `${count(queries, "query", "queries")} against ${count(index, "photo")}`)),
    h("dl", { class: "metrics" }, figures.map(([name, value]) => {
      let [title, meaning] = told(name);
      const [low, high] = [metrics[`${name}_low`], metrics[`${name}_high`]];
      if (low !== undefined) meaning += `, 95\u00a0% between ${fixed(low)} and ${fixed(high)}`;
      return h("div", {}, h("dt", {}, title), h("dd", { class: "value" }, COUNTED.test(name) ? value.toLocaleString("en") : fixed(value)), h("dd", { class: "small" }, meaning));
    })),
    h("div", { class: "charts" },
      h("section", { class: "card", "aria-labelledby": "confusion-title" },
        h("h2", { id: "confusion-title" }, "Confusion"), confusions(confusion)),
      h("section", { class: "card", "aria-labelledby": "curve-title" },
        h("h2", { id: "curve-title" }, "Precision and recall"), precisionRecall(curve))),
    h("section", { class: "card", "aria-labelledby": "landmarks-title" },
      h("h2", { id: "landmarks-title" }, "Landmarks"), scores(landmarks)),
    h("section", { class: "cases", id: "cases", "aria-labelledby": "cases-title" }),
  ];
}

/** The title of a figure and what it means; of one that is not known its name in words. */
function told(name) {
  if (MEANING[name]) return MEANING[name];
  const setup = SETUPS[name.split("_").find((part) => part in SETUPS)];
  for (const [form, telling] of PARTS) {
    const match = form.exec(name);
    if (!match) continue;
    const [title, meaning] = telling(match[1]);
    return [setup ? `${title}, ${setup}` : title, meaning];
  }
  return [spoken(name), ""];
}

// ---- confusion

function confusions(pairs) {
  const names = [...new Set(pairs.flatMap((pair) => [pair.actual, pair.predicted]))].sort();
  const totals = new Map();
  for (const pair of pairs) totals.set(pair.actual, (totals.get(pair.actual) ?? 0) + pair.queries);
  return names.length <= MATRIX ? matrix(names, pairs, totals) : worstPairs(pairs, totals);
}

function matrix(names, pairs, totals) {
  const counts = new Map(pairs.map((pair) => [`${pair.actual}\n${pair.predicted}`, pair.queries]));
  const cell = (actual, predicted) => {
    const queries = counts.get(`${actual}\n${predicted}`);
    if (!queries) return h("td", {}, h("span", { class: "hidden" }, "0"));
    const td = h("td", { class: actual === predicted ? "right" : "wrong" },
      h("a", { href: here({ actual, predicted }), title: `${isolated(spoken(actual))}, taken for ${isolated(spoken(predicted))}` }, queries));
    td.style.setProperty("--share", queries / totals.get(actual));
    return td;
  };
  const rows = names.filter((name) => totals.has(name));
  const legend = h("p", { class: "small" }, "A row for the landmark of the query, a column for what it was taken for.");
  const table = h("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "confusion-title" },
    h("table", { class: "matrix", "aria-labelledby": "confusion-title" },
      h("thead", {}, h("tr", {}, h("td", {}), names.map((name) => h("th", { scope: "col", title: name }, named(name))))),
      h("tbody", {}, rows.map((actual) =>
        h("tr", {}, h("th", { scope: "row", title: actual }, named(actual)), names.map((predicted) => cell(actual, predicted)))))));
  return [legend, table];
}

function worstPairs(pairs, totals) {
  const wrong = pairs.filter((pair) => pair.actual !== pair.predicted).sort((a, b) => b.queries - a.queries);
  return h("table", { class: "list" },
    h("caption", {}, wrong.length > 20 ? "The most frequent." : "All that occur."),
    h("thead", {}, h("tr", {}, ["Landmark", "Taken for", "Queries"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, wrong.slice(0, 20).map(({ actual, predicted, queries }) =>
      h("tr", {}, h("td", { title: actual }, named(actual)), h("td", { title: predicted }, named(predicted)),
        h("td", { class: "figure" }, h("a", { href: here({ actual, predicted }) }, `${queries} of ${totals.get(actual)}`))))));
}

// ---- precision and recall

function precisionRecall(curve) {
  const [width, height, left, bottom, edge] = [420, 350, 44, 42, 26];
  const x = (recall) => left + recall * (width - left - 12);
  const y = (precision) => height - bottom - precision * (height - bottom - edge);
  const line = curve.map(([recall, precision]) => `${x(recall).toFixed(1)} ${y(precision).toFixed(1)}`).join("L");
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  const at = (recall) => curve.reduce((best, point) => (Math.abs(point[0] - recall) < Math.abs(best[0] - recall) ? point : best));
  const dot = s("circle", { class: "dot", r: 4, cx: -9, cy: -9 });
  const readout = h("p", { class: "small readout", "aria-hidden": "true" }, "Point at the curve to read it.");
  const chart = s("svg", {
    class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Precision by recall: " +
      [0, 0.25, 0.5, 0.75, 1].map((recall) => `${at(recall)[1].toFixed(2)} at ${recall}`).join(", "),
  },
    ticks.map((tick) => [
      s("line", { class: "rule", x1: x(0), x2: x(1), y1: y(tick), y2: y(tick) }),
      s("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick),
      s("text", { x: x(tick), y: height - bottom + 17, "text-anchor": "middle" }, tick),
    ]).flat(),
    s("path", { class: "area", d: `M${x(0)} ${y(0)}L${line}L${x(1)} ${y(0)}Z` }),
    s("path", { class: "line", d: `M${line}` }),
    s("text", { class: "axis", x: x(0.5), y: height - 4, "text-anchor": "middle" }, "recall"),
    s("text", { class: "axis", x: 0, y: 12 }, "precision"),
    dot);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const [recall, precision] = at(((event.clientX - box.x) * (width / box.width) - left) / (width - left - 12));
    dot.setAttribute("cx", x(recall));
    dot.setAttribute("cy", y(precision));
    readout.textContent = `precision ${precision.toFixed(3)} at recall ${recall.toFixed(2)}`;
  });
  return h("figure", {}, chart, readout);
}

// ---- landmarks

const COLUMNS = [
  ["landmark", "Landmark"],
  ["queries", "Queries"],
  ["accuracy", "Accuracy"],
  ["average_precision", "Average precision"],
];

function scores(landmarks) {
  const body = h("tbody");
  const heads = COLUMNS.map(([key, title]) =>
    h("th", { scope: "col", class: ["landmark", "queries"].includes(key) ? null : "wide" },
      h("button", { type: "button", click: () => sort(key, key === "landmark" || !rising.get(key)) }, title)));
  const rising = new Map();
  const measure = (value) => [
    h("td", { class: "wide" }, h("span", { class: "measure" }, value === null ? null : bar(value), h("span", { class: "figure" }, fixed(value)))),
  ];
  function sort(key, up) {
    rising.clear();
    rising.set(key, up);
    const ordered = [...landmarks].sort((a, b) => {
      const [first, second] = [a[key] ?? Infinity, b[key] ?? Infinity];
      return (first < second ? -1 : first > second ? 1 : 0) * (up ? 1 : -1);
    });
    body.replaceChildren(...ordered.map((score) =>
      h("tr", {},
        h("th", { scope: "row" }, h("a", { href: here({ actual: score.landmark }), title: score.landmark }, named(score.landmark))),
        h("td", { class: "figure" }, score.queries),
        measure(score.accuracy), measure(score.average_precision))));
    heads.forEach((head, place) => {
      if (COLUMNS[place][0] === key) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }
  sort("average_precision", true);
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Scores of the landmarks" },
    h("table", { class: "list scores" }, h("thead", {}, h("tr", {}, heads)), body));
}

// ---- queries

async function showCases(place, params, signal) {
  const kind = {};
  for (const name of ["actual", "predicted"]) if (params.has(name)) kind[name] = params.get(name);
  const list = h("ol", {});
  const more = h("button", { class: "more", type: "button", click: () => load().catch((error) => more.replaceWith(error.message)) }, "More queries");
  async function load() {
    const asked = new URLSearchParams({ ...kind, offset: list.children.length, limit: CASES });
    const { total, queries } = await ask(`/api/evaluation/queries?${asked}`, { signal });
    const first = list.children.length;
    list.append(...queries.map(drawCase));
    if (first) list.children[first]?.querySelector("a").focus();
    more.hidden = list.children.length >= total;
    return total;
  }
  const total = await load();
  const title = !kind.actual ? ["Worst queries"]
    : !kind.predicted ? ["Queries of ", named(kind.actual)]
    : kind.actual === kind.predicted ? [named(kind.actual), ", recognised"]
    : [named(kind.actual), ", taken for ", named(kind.predicted)];
  place.replaceChildren(
    h("div", { class: "title" },
      h("h2", { id: "cases-title", tabindex: "-1" }, title),
      h("p", {}, "Worst first, by average precision over the results shown. ",
        kind.actual && h("a", { href: here() }, "Show all queries"))),
    total ? list : h("p", {}, "There are none."),
    more,
  );
  if (kind.actual) {
    place.scrollIntoView({ block: "start" });
    place.querySelector("h2").focus({ preventScroll: true });
  }
}

function drawCase(query) {
  const right = query.predicted === query.landmark;
  return h("li", { class: "case" },
    h("a", { class: "who", href: `#/query/${query.number}`, title: query.path },
      picture(`/api/evaluation/queries/${query.number}/thumbnail`, `Query, a photo of ${spoken(query.landmark)}`),
      h("span", { class: "text" },
        named(query.landmark, { class: "name" }),
        h("span", { class: right ? "said right" : "said wrong" },
          right ? "✓ recognised" : ["✕ taken for ", named(query.predicted)]),
        h("span", { class: "detail" }, fileName(query.path),
          query.precision !== null && h("span", { class: "far" }, `AP ${query.precision.toFixed(2)}`)))),
    h("ol", { class: "strip" }, query.results.map((found) => drawFound(found, found.landmark === query.landmark))));
}

function drawFound(found, right) {
  const inside = [
    found.row === null ? h("span", { class: "frame gone" }, h("span", {}, "Not in the index")) : picture(`/api/photos/${found.row}/thumbnail`, `Photo of ${spoken(found.landmark)}`),
    h("span", { class: "name" }, h("span", { class: right ? "mark right" : "mark wrong" }, right ? "✓" : "✕"),
      h("span", { class: "hidden" }, right ? " right: " : " wrong: "), named(found.landmark)),
    h("span", { class: "small" }, far(found.distance)),
  ];
  return h("li", { class: right ? "right" : "wrong" },
    found.row === null ? h("span", {}, inside) : h("a", { href: `#/photo/${found.row}`, title: found.path }, inside));
}
