// What both tabs need: making elements, asking the API, writing names and numbers.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; an attribute that is a function listens to the event of that name. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** A landmark's name for people: folders are often named with underscores. */
export const spoken = (name) => {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
};

/** A landmark's name on the page: read from right to left, it does not turn what is around it. */
export const named = (name, attributes) => h("bdi", attributes, spoken(name));

/** The same for text where no element can be. */
export const isolated = (text) => `\u2068${text}\u2069`;

/** A name of a file or folder, which breaks at its joints first. */
const fileNamed = (name, attributes) =>
  h("bdi", attributes, name.split(/(?<=[_.-])/).flatMap((part) => [part, h("wbr")]));

/** The last part of a path. */
export const fileName = (path) => fileNamed(path.slice(path.lastIndexOf("/") + 1), { class: "file" });

/** The parts of a path, in their order whichever way each is read. */
export const pathParts = (path) =>
  path.split("/").flatMap((part, place) => [...(place ? ["/", h("wbr")] : []), fileNamed(part)]);

/** A distance, or that there is none; of less than a millionth only rounding is left. */
export const far = (distance) =>
  distance === null ? "∞" : distance < 1e-6 ? "0" : distance >= 100 ? distance.toFixed(0) : distance.toPrecision(3);

/** "1 query", "2 queries". */
export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** The JSON at `path`. Throws an error whose message is a sentence for people. */
export async function ask(path, request) {
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `landmarks serve` still running?");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `The server answered ${response.status}.`);
  return body;
}

/** A picture whose place says so where it cannot be shown. */
export function picture(source, alt, { lazy = true } = {}) {
  const image = h("img", { src: source, alt, decoding: "async", loading: lazy && "lazy" });
  const frame = h("span", { class: "frame" }, image);
  image.addEventListener("error", () => {
    frame.classList.add("gone");
    frame.replaceChildren(h("span", {}, source.startsWith("blob:") ? "No preview of this format" : "Photo is gone"));
  });
  return frame;
}

/** A bar for a share from 0 to 1; the number beside it says the same. */
export const bar = (share) =>
  s(
    "svg",
    { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "whole", width: 100, height: 6 }),
    s("rect", { class: "part", width: 100 * share, height: 6 }),
  );
