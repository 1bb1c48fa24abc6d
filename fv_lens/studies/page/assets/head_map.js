// The map of heads: texts of the data become text nodes only, never markup.

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "line", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function signed(value) {
  return (value > 0 ? "+" : "") + String(value).replaceAll("-", "\u2212");
}

// One bar for each prompt, upwards where it raised the answer's probability.
function strip(values, labels, title) {
  const top = Math.max(0, ...values), bottom = Math.min(0, ...values);
  const height = (value) => (100 * value) / (top - bottom || 1);
  const bars = values.map((value, i) => {
    const size = Math.abs(height(value));
    const y = height(top) - Math.max(0, height(value));
    const bar = { x: 10 * i + 1.5, y, width: 7, height: size, class: value < 0 ? "below" : "above" };
    const hit = { x: 10 * i, y: 0, width: 10, height: 100, class: "hit" };
    return element("g", {}, element("title", {}, labels[i]), element("rect", hit), element("rect", bar));
  });
  const zero = { x1: 0, x2: 10 * values.length, y1: height(top), y2: height(top) };
  const box = { viewBox: `0 -4 ${10 * values.length} 108`, preserveAspectRatio: "none", role: "img", "aria-label": title };
  return element("svg", box, ...bars, element("line", zero));
}

function headMap(map) {
  const { layers, heads, measures, of, asked, chosen, words } = JSON.parse(
    map.querySelector('script[type="application/json"]').textContent,
  );
  const cells = [...map.querySelectorAll("[role=gridcell]")];
  const panel = map.querySelector(".panel");
  const outlined = new Set(chosen);
  let measure = measures.probability;
  let open = null; // the cell whose head the panel shows

  // The last layer comes first in the grid.
  const headAt = (at) => (layers - 1 - Math.floor(at / heads)) * heads + (at % heads);
  const place = (head) => `layer ${Math.floor(head / heads)}, head ${head % heads}`;
  const nameOf = (head) => `${place(head)}: ${measure.shown[head]}${outlined.has(head) ? ", chosen" : ""}`;

  function recolour() {
    for (const [at, cell] of cells.entries()) {
      const head = headAt(at);
      cell.style.background = measure.shades[head] === null ? "none" : `var(--shade-${measure.shades[head]})`;
      cell.setAttribute("aria-label", nameOf(head));
      cell.removeAttribute("title");
    }
    map.querySelector(".low").textContent = `\u2212${measure.limit}`;
    map.querySelector(".high").textContent = `+${measure.limit}`;
    map.querySelector(".unit").textContent = measure.unit;
    fill();
  }

  function promptByPrompt(head) {
    if (measure.shades[head] === null) return [];
    const values = measure.each[head];
    const title = element("h4", {}, `Effect on ${measure.name}, ${of} by ${of}`);
    if (!values) return [title, element("p", {}, "Not kept on this page for this head.")];
    const labels = values.map((value, i) => `${asked ? asked[i] : `${of} ${i + 1}`}: ${signed(value)}`);
    const raised = values.filter((value) => value > 0).length;
    const ends = [Math.min(...values), Math.max(...values)].map(signed).join(" to ");
    const told = `above 0 in ${raised} of ${values.length}; from ${ends}`;
    const items = labels.map((label) => element("li", {}, label));
    const list = element("details", {}, element("summary", {}, "As a list"), element("ol", {}, ...items));
    return [title, strip(values, labels, `Effect ${of} by ${of}: ${told}`), element("p", {}, told), list];
  }

  function promoted(head) {
    if (!words?.[head]) return [];
    const shown = words[head].map((word) => element("li", {}, element("code", {}, JSON.stringify(word))));
    return [element("h4", {}, "Its mean output promotes"), element("ul", { class: "promoted" }, ...shown)];
  }

  function fill() {
    panel.replaceChildren();
    if (!open) {
      const hint = "Open a head with a click, or with the arrow keys and Enter, to see its interval and its effects.";
      panel.append(element("p", { class: "hint" }, hint));
      return;
    }
    const head = headAt(cells.indexOf(open));
    const title = place(head)[0].toUpperCase() + place(head).slice(1) + (outlined.has(head) ? ", chosen" : "");
    const button = element("button", { type: "button" }, "Close");
    button.addEventListener("click", close);
    const means = Object.values(measures).flatMap(({ name, shown }) => [
      element("dt", {}, name + (name === measures.log_prob.name ? ", nats" : "")),
      element("dd", {}, shown[head]),
    ]);
    panel.append(
      element("div", { class: "top" }, element("h3", {}, title), button),
      element("dl", {}, ...means),
      ...promptByPrompt(head),
      ...promoted(head),
    );
  }

  function show(cell) {
    open?.removeAttribute("aria-selected");
    open = cell;
    open.setAttribute("aria-selected", "true");
    fill();
    panel.scrollIntoView({ block: "nearest" });
  }

  function close() {
    if (!open) return;
    const cell = open;
    open = null;
    cell.removeAttribute("aria-selected");
    fill();
    cell.focus();
  }

  function focus(cell) {
    map.querySelector("[role=gridcell][tabindex='0']").tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  }

  function moved(at, key) {
    const left = at - (at % heads);
    const target = {
      ArrowLeft: Math.max(at - 1, left),
      ArrowRight: Math.min(at + 1, left + heads - 1),
      ArrowUp: at - heads,
      ArrowDown: at + heads,
      Home: left,
      End: left + heads - 1,
    }[key];
    return cells[target] ?? (target === undefined ? null : cells[at]);
  }

  const grid = map.querySelector("[role=grid]");
  grid.addEventListener("keydown", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    const target = cell && moved(cells.indexOf(cell), event.key);
    if (target) focus(target);
    else if (cell && (event.key === "Enter" || event.key === " ")) {
      show(cell);
      panel.focus();
    } else return;
    event.preventDefault();
  });
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (!cell) return;
    focus(cell);
    show(cell);
  });
  grid.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (cell) cell.title = cell.getAttribute("aria-label");
  });
  map.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  for (const radio of map.querySelectorAll("input[type=radio]")) {
    radio.addEventListener("change", () => {
      measure = measures[radio.value];
      recolour();
    });
  }
  fill();
}

document.querySelectorAll(".heads").forEach(headMap);
