// The operations of the API as /api/openapi.json has them.

import { ask, h } from "./dom.js";

const place = document.getElementById("operations");

/** A type of the schema in a few words. */
function kind(schema = {}) {
  if (schema.anyOf) return schema.anyOf.map(kind).filter((name) => name !== "null").join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  return schema.type ?? "anything";
}

function operation(verb, path, { description, summary, parameters = [], requestBody, responses }) {
  const answer = responses["200"]?.content?.["application/json"]?.schema;
  return h("article", { class: "operation" },
    h("h3", {}, h("code", {}, h("span", { class: "verb" }, verb.toUpperCase()), path)),
    h("p", {}, description ?? summary),
    requestBody && h("p", { class: "small" }, `Body (${Object.keys(requestBody.content)}): ${requestBody.description}`),
    parameters.length > 0 && h("ul", {}, parameters.map((one) =>
      h("li", {}, h("code", {}, one.name), ` ${kind(one.schema)}${one.required ? "" : ", optional"}`,
        one.schema.default !== undefined && `, ${one.schema.default} by default`,
        one.description && h("span", { class: "small" }, `. ${one.description}`)))),
    h("p", { class: "small" }, `Answers ${answer ? kind(answer) : "a JPEG"}.`));
}

function shape(name, { description, properties = {} }) {
  return h("article", { class: "operation" },
    h("h3", {}, h("code", {}, name)),
    description && h("p", {}, description),
    h("ul", {}, Object.entries(properties).map(([field, schema]) =>
      h("li", {}, h("code", {}, field), ` ${kind(schema)}`, schema.description && h("span", { class: "small" }, `. ${schema.description}`)))));
}

try {
  const { paths, components } = await ask("/api/openapi.json");
  const groups = new Map();
  for (const [path, verbs] of Object.entries(paths)) {
    for (const [verb, one] of Object.entries(verbs)) {
      const name = one.tags?.[0] ?? "other";
      groups.set(name, [...(groups.get(name) ?? []), operation(verb, path, one)]);
    }
  }
  document.getElementById("example").textContent =
    `curl --data-binary @photo.jpg '${location.origin}/api/answer?distance=L2&top=5'`;
  place.append(
    ...[...groups].map(([name, operations]) => h("section", {}, h("h2", {}, name[0].toUpperCase() + name.slice(1)), operations)),
    h("section", {}, h("h2", {}, "Shapes"), Object.entries(components.schemas)
      .filter(([name]) => !name.endsWith("ValidationError")).map(([name, schema]) => shape(name, schema))),
  );
} catch (error) {
  place.append(h("p", { class: "problem", role: "alert" }, error.message));
}
