// A search as columns of nodes, which of them are shown and where, and its values by step.

const GAP = 18,
  LABEL = 19;

function bits(encoded) {
  const raw = atob(encoded),
    held = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) held[i] = raw.charCodeAt(i);
  return held;
}

/** Where a step leads that goes back in noise, in words; nothing for a denoising step. */
function leads(drawn, step) {
  if (!drawn.reached) return "";
  const from = step ? drawn.reached[step - 1] : 0,
    to = drawn.reached[step];
  return to > from ? "" : to < from ? `back to level ${to}` : `back, and down to level ${to}`;
}

/** Columns of nodes: x_T, the steps that were scored or branched, runs of plain steps, and the images. */
function grow(drawn, search) {
  const values = new Float32Array(bits(drawn.values).buffer),
    columns = [];
  const node = (column, fields) => {
    const made = {
      kids: [],
      copies: 0,
      path: [],
      open: false,
      column: columns.length,
      value: NaN,
      drawn: true,
      ...fields,
    };
    column.nodes.push(made);
    if (made.parent) made.parent.kids.push(made);
    return made;
  };
  const start = { kind: "start", nodes: [] };
  let beams = drawn.alive[0]
    ? Array.from({ length: drawn.alive[0] }, (_, k) =>
        node(start, { kind: "start", j: k, copies: 1, step: -1, root: k }),
      )
    : [];
  drawn.ancestor.forEach((k, image) => beams[k].path.push(image));
  columns.push(start);
  let at = 0,
    plain = null;
  drawn.width.forEach((width, step) => {
    const parents = drawn.parent && drawn.parent[step],
      total = parents ? parents.length : drawn.alive[step] * width,
      moved = drawn.child[step],
      way = leads(drawn, step);
    if (!drawn.scored[step] && width === 1 && !parents) {
      if (moved) beams = moved.map((j) => beams[j]);
      if (plain && !way) plain.to = step;
      else columns.push((plain = { kind: "plain", from: step, to: step, nodes: [], alive: drawn.alive[step], way }));
      if (way) plain = null;
      return;
    }
    plain = null;
    const column = { kind: "step", step, nodes: [], alive: drawn.alive[step], width, way };
    for (let j = 0; j < total; j++) {
      const beam = parents ? parents[j] : Math.floor(j / width),
        parent = beams[beam],
        value = drawn.scored[step] ? values[at++] : NaN;
      node(column, {
        kind: "step",
        step,
        j,
        value,
        drawn: value !== -Infinity,
        parent,
        root: parent.root,
        beam,
      });
    }
    const kept = moved || column.nodes.map((_, j) => j);
    for (const j of kept) column.nodes[j].copies++;
    drawn.path.forEach((path, image) => column.nodes[path[step]].path.push(image));
    beams = kept.map((j) => column.nodes[j]);
    columns.push(column);
  });
  const returned = { kind: "returned", nodes: [] };
  drawn.order.forEach((k, rank) =>
    node(returned, {
      kind: "returned",
      j: rank,
      copies: 1,
      parent: beams[k],
      root: beams[k].root,
      path: [rank],
      value: search.images[rank][1] ?? NaN,
      step: drawn.width.length,
    }),
  );
  columns.push(returned);
  return columns;
}

const dropped = (node) => node.copies === 0;
const lost = (node) => node.kids.filter((kid) => dropped(kid) && kid.drawn).length;
const hidden = (node) => node.kids.filter(dropped).length;

/** What is shown of a column, by parent: the kept, and in a tray the dropped of open parents, those never drawn as one. */
function visible(columns) {
  let before = [];
  return columns.map((column) => {
    if (column.kind === "plain") return [];
    const groups =
      column.kind === "start"
        ? column.nodes.map((node) => ({ parent: null, kept: [node], tray: [] }))
        : before
            .map((parent) => {
              const tray = parent.open ? parent.kids.filter((kid) => dropped(kid) && kid.drawn) : [];
              const undrawn = parent.open ? parent.kids.filter((kid) => !kid.drawn) : [];
              if (undrawn.length)
                tray.push((parent.never ||= { ...undrawn[0], kind: "undrawn", count: undrawn.length }));
              return { parent, kept: parent.kids.filter((kid) => !dropped(kid)), tray };
            })
            .filter((group) => group.kept.length || group.tray.length);
    before = groups.flatMap((group) => [...group.kept, ...group.tray]);
    return groups;
  });
}

/** Tops in order, each as near to where it would like to be as the others let it (isotonic regression). */
function packed(wishes, heights) {
  const offsets = [0];
  for (let i = 1; i < wishes.length; i++) offsets.push(offsets[i - 1] + heights[i - 1] + GAP);
  const blocks = [];
  wishes.forEach((wish, i) => {
    let block = { sum: wish - offsets[i], n: 1 };
    while (blocks.length && blocks[blocks.length - 1].sum / blocks[blocks.length - 1].n > block.sum / block.n) {
      const last = blocks.pop();
      block = { sum: last.sum + block.sum, n: last.n + block.n };
    }
    blocks.push(block);
  });
  return blocks.flatMap(({ sum, n }) => Array(n).fill(sum / n)).map((z, i) => z + offsets[i]);
}

/** All values of a search by step: crosses dropped, dots kept, the path through them. */
function scatter(columns, steps, choose) {
  const nodes = columns.flatMap((column) => column.nodes).filter((node) => known(node.value) && node.kind === "step");
  const svg = s("svg", { class: "plot", height: 190, "aria-hidden": "true" }),
    holder = h("div", { class: "panel" }, svg);
  const scored = columns.filter((column) => column.nodes.some((node) => node.kind === "step" && known(node.value)));
  const element = h(
    "figure",
    { class: "scatter" },
    h("div", { class: "panel" }, h("h4", {}, `Values (${state.objective})`)),
    holder,
    h(
      "figcaption",
      {},
      "Every candidate by step and value: \u00d7 dropped, \u25cf kept; the line joins those that lead to the best image. Choose a point to find it in the tree.",
    ),
  );
  if (scored.length < 2) return { element: "", here() {} };
  let low = Math.min(...nodes.map((node) => node.value)),
    high = Math.max(...nodes.map((node) => node.value));
  const room = (high - low || 1) * 0.06;
  [low, high] = [low - room, high + room];
  const ring = s("circle", { class: "here", r: 6.5 }),
    bottom = 158;
  let x = () => 0,
    at = null;
  const y = (value) => bottom - ((bottom - 8) * (value - low)) / (high - low);
  function draw(width) {
    const yt = ticks(low, high, 5),
      d = decimals(yt),
      words = yt.map((v) => minus(v.toFixed(d)));
    const left = 12 + 6.7 * Math.max(...words.map((w) => w.length)),
      right = width - 12;
    x = (step) => (steps > 1 ? left + ((right - left) * step) / (steps - 1) : (left + right) / 2);
    svg.setAttribute("viewBox", `0 0 ${width} 190`);
    const trail = nodes.filter((node) => node.path.includes(0));
    const cross = (node) => {
      const [a, b] = [x(node.step), y(node.value)];
      return `M${(a - 3).toFixed(1)},${(b - 3).toFixed(1)}l6,6m-6,0l6,-6`;
    };
    svg.replaceChildren(
      ...yt.map((v, i) =>
        s(
          "g",
          {},
          s("line", { class: "grid", x1: left, x2: right, y1: y(v), y2: y(v) }),
          s("text", { x: left - 7, y: y(v) + 4, "text-anchor": "end" }, words[i]),
        ),
      ),
      ...ticks(0, steps - 1, Math.max(2, Math.min(12, Math.floor(width / 44))), true).map((v) =>
        s("text", { x: x(v), y: bottom + 17, "text-anchor": "middle" }, String(v)),
      ),
      s("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
      s("text", { x: (left + right) / 2, y: 188, "text-anchor": "middle" }, "step"),
      s("path", { class: "lost", d: nodes.filter(dropped).map(cross).join("") }),
      s("path", {
        class: "trail",
        d: trail.map((node, i) => `${i ? "L" : "M"}${x(node.step)},${y(node.value)}`).join(""),
      }),
      ...nodes
        .filter((node) => !dropped(node))
        .map((node) =>
          s("circle", {
            class: node.path.length ? "on" : "won",
            cx: x(node.step),
            cy: y(node.value),
            r: node.path.length ? 4 : 3,
          }),
        ),
      ring,
    );
    here(at);
  }
  function here(node) {
    at = node;
    const there = node && node.kind === "step" && known(node.value);
    ring.setAttribute("visibility", there ? "visible" : "hidden");
    if (there) {
      ring.setAttribute("cx", x(node.step));
      ring.setAttribute("cy", y(node.value));
    }
  }
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect(),
      px = event.clientX - box.left,
      py = event.clientY - box.top;
    const far = (node) => (x(node.step) - px) ** 2 + (y(node.value) - py) ** 2;
    choose(nodes.reduce((a, b) => (far(b) < far(a) ? b : a)));
  });
  new ResizeObserver(() => holder.clientWidth && draw(holder.clientWidth)).observe(holder);
  return { element, here };
}
