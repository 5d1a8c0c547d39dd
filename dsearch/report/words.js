// The data of the page, its elements (text is only ever put in as text), its words, and what is chosen.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const DASH = ["", "8 3", "3 2.5", "9 3 2.5 3"];
const methods = Object.keys(data.methods);
const state = { model: data.models[0], objective: data.objectives[0], budget: 0, seed: data.seeds[0] };

const $ = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function part(name) {
  const element = $(name);
  return element ? JSON.parse(element.textContent) : null;
}
const remembered = new Map();
function imagesOf(n) {
  if (!remembered.has(n)) remembered.set(n, part(`images-${n}`) || []);
  return remembered.get(n);
}

const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || one + "s"}`;
const known = (x) => typeof x === "number" && Number.isFinite(x);
const text = (prompt) => (prompt === "" ? "(empty prompt)" : prompt);
const short = (words, most = 70) => (words.length > most ? words.slice(0, most - 1) + "\u2026" : words);
const minus = (words) => words.replace(/-/g, "\u2212");

function fixed(x, digits) {
  return known(x) ? minus(x.toFixed(digits)) : "\u2013";
}
/** An image's own reward: what is not finite rejects it. */
const verdict = (x, digits) => (known(x) ? fixed(x, digits) : "rejected");
function digitsFor(numbers, more = 0) {
  const held = numbers.filter(known);
  if (!held.length) return 3;
  const spread = Math.max(...held) - Math.min(...held) || Math.abs(held[0]) || 1;
  return Math.min(6, Math.max(0, Math.ceil(1.5 + more - Math.log10(spread))));
}
/** As many as tell two digits of a typical half interval. */
function digitsWithin(triples, otherwise) {
  const halves = triples
    .filter((triple) => triple && known(triple[1]) && triple[2] > triple[1])
    .map(([, low, high]) => (high - low) / 2)
    .sort((a, b) => a - b);
  return halves.length ? Math.min(6, Math.max(0, Math.ceil(1 - Math.log10(halves[halves.length >> 1])))) : otherwise;
}
const decimals = (ticks) => (ticks.length < 2 ? 2 : Math.max(0, -Math.floor(Math.log10(ticks[1] - ticks[0]) + 1e-9)));
const percent = (x) =>
  x === 0 || x === 1 || (x >= 0.01 && x <= 0.99) ? `${(100 * x).toFixed(0)}%` : x < 0.5 ? "< 1%" : "> 99%";
const count = (x) => (Number.isInteger(x) ? x : Math.round(x * 10) / 10).toLocaleString("en");
const bytes = (n) => (n === null ? "\u2013" : n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : `${Math.round(n / 1e6)} MB`);
const seconds = (x) => (x >= 100 ? Math.round(x).toLocaleString("en") : x.toFixed(x >= 10 ? 1 : 2)) + " s";
const listed = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;

function digitsOf(reward) {
  const seen = [];
  for (const search of data.searches) {
    const cell = data.cells[search.cell];
    const at = data.held_out[cell.objective].indexOf(reward);
    for (const [, objective, held_out] of search.images) {
      if (cell.objective === reward) seen.push(objective);
      else if (at >= 0) seen.push(held_out[at]);
    }
  }
  return digitsFor(seen, 0.4);
}

const shown = (all) =>
  data.cells.filter((c) => c.model === state.model && c.objective === state.objective && (all || c.budget === state.budget));
const colour = (method) => `c${methods.indexOf(method) % 8}`;
const dash = (method) => DASH[(methods.indexOf(method) + Math.floor(methods.indexOf(method) / 8)) % DASH.length];

function searchOf(method, seed, position) {
  return data.searches.findIndex((search) => {
    const cell = data.cells[search.cell];
    return (
      cell.method === method &&
      cell.model === state.model &&
      cell.objective === state.objective &&
      cell.budget === state.budget &&
      search.seed === seed &&
      search.positions.includes(position)
    );
  });
}

function pick(label, options, value, change) {
  const select = h("select", { onchange: () => change(options[select.selectedIndex][0]) });
  for (const [key, words] of options) {
    select.append(h("option", { selected: key === value }, short(words, 80)));
  }
  return h("label", { class: "pick" }, label, select);
}

function choices() {
  const bar = $("choices");
  const add = (name, label, options) => {
    if (options.length > 1) bar.append(pick(label, options, state[name], (key) => ((state[name] = key), draw())));
  };
  add(
    "model",
    "Model",
    data.models.map((name) => [name, name]),
  );
  add(
    "objective",
    "Objective",
    data.objectives.map((name) => [name, name]),
  );
  add(
    "budget",
    "Budget",
    data.budgets.map((words, i) => [i, words]),
  );
}
