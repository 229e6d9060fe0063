// What on the page is wider than its place, covers or turns something else, or is cut off: a line for each.
() => {
  const SLACK = 1; // pixels, since boxes are rounded
  const LEGIBLE = 24; // pixels of a text that ends in an ellipsis
  const TURNS = /[\u0590-\u08ff\u202a-\u202e\ufb1d-\ufdff\ufe70-\ufefc]/; // read from right to left
  const found = new Set();
  const remembered = (make) => {
    const known = new Map();
    return (key) => known.get(key) ?? known.set(key, make(key)).get(key);
  };
  const style = remembered((element) => getComputedStyle(element));
  const box = remembered((element) => element.getBoundingClientRect());
  const shown = remembered((element) =>
    !element.closest(".hidden, option, .skip") && element.checkVisibility({ visibilityProperty: true }));
  const named = (node) => {
    const element = node.parentElement;
    const place = node.id ? `#${node.id}` : node.nodeType === Node.TEXT_NODE ? "" : ` > ${node.localName}.${node.className}`;
    const text = node.textContent.trim();
    return `${element.id ? `#${element.id}` : `${element.localName}.${element.className}`}${place} (${text.slice(0, 30)})`;
  };

  /** What is seen of a part of `node`, or null: boxes around it may clip, but only those that scroll or say "…". */
  function seen(node, { left, right, top, bottom }) {
    for (let around = node.parentElement; around !== document.body; around = around.parentElement) {
      const { display, overflowX, textOverflow, webkitLineClamp: clamp, position } = style(around);
      if (["inline", "contents"].includes(display)) continue;
      const edge = box(around);
      const wide = left < edge.left - SLACK || right > edge.right + SLACK;
      if (overflowX === "visible") {
        if (wide) found.add(`${named(node)} sticks out of ${named(around)}`);
      } else {
        const [scrolls, ellipsis] = [["auto", "scroll"].includes(overflowX), textOverflow === "ellipsis"];
        const half = (bottom - top) / 2;
        [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
        [top, bottom] = [Math.max(top, edge.top), Math.min(bottom, edge.bottom)];
        const low = bottom - top < half;
        if ((wide || low) && !scrolls && !ellipsis && !(low && clamp !== "none")) {
          found.add(`${named(node)} is cut off by ${named(around)}`);
        }
        if (wide && ellipsis && right - left < LEGIBLE) found.add(`of ${named(node)} only the ellipsis is left`);
        if (right <= left || (low && !ellipsis)) return null;
      }
      if (position === "fixed") break;
    }
    return { node, left, right, top, bottom };
  }

  const cover = (one, other, slack) =>
    Math.min(one.right, other.right) - Math.max(one.left, other.left) > slack &&
    Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > slack;

  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) found.add(`the page is ${scrollWidth} pixels wide`);

  for (const element of document.body.querySelectorAll(":not(svg *)")) {
    if (!shown(element)) continue;
    if (style(element).display !== "inline") seen(element, box(element));
    if (element.matches("bdi, li, tr") && box(element).height > innerHeight / 2) found.add(`${named(element)} is too high`);
    if (style(element).position === "sticky" && box(element).width > innerWidth / 2) found.add(`${named(element)} hides all`);
    if (element.localName === "svg") continue;
    const inside = [...element.children].filter((child) => shown(child) && style(child).display !== "inline" &&
      !["absolute", "fixed"].includes(style(child).position));
    inside.forEach((child, place) => inside.slice(place + 1).forEach((other) => {
      if (cover(box(child), box(other), SLACK)) found.add(`${named(child)} covers ${named(other)}`);
    }));
  }

  const lines = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (texts.nextNode()) {
    const node = texts.currentNode;
    const isolated = node.parentElement.closest("bdi, .hidden") || node.data.startsWith("\u2068");
    if (TURNS.test(node.data) && !isolated) found.add(`${named(node)} may turn what is around it`);
    if (!node.data.trim() || !shown(node.parentElement)) continue;
    range.selectNodeContents(node);
    for (const line of range.getClientRects()) {
      const part = line.width > 0 && seen(node, line);
      // A line is higher than its letters, and may reach into the next.
      const quarter = part && (part.bottom - part.top) / 4;
      if (part) lines.push({ ...part, top: part.top + quarter, bottom: part.bottom - quarter });
    }
  }
  lines.sort((one, other) => one.top - other.top);
  lines.forEach((line, place) => {
    for (let next = place + 1; next < lines.length && lines[next].top < line.bottom; next++) {
      if (line.node !== lines[next].node && cover(line, lines[next], 2 * SLACK)) {
        found.add(`${named(line.node)} covers ${named(lines[next].node)}`);
      }
    }
  });
  return [...found];
}
