// The lineage: a search as a tree that can be walked.

let chosen = { method: null, position: 0 };
let tree = { focus() {} };
let urls = [];

function lineage() {
  const host = $("tree-figure"),
    cells = shown();
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
  if (!cells.length) return host.replaceChildren(nothing());
  if (!cells.some((cell) => cell.method === chosen.method)) {
    const branching = cells.find((cell) => cell.plan.w.some((w) => w > 1) && cell.plan.b.some((b) => b > 1));
    chosen.method = (branching || cells.find((cell) => cell.plan.w.some((w) => w > 1)) || cells[0]).method;
  }
  const n = searchOf(chosen.method, state.seed, chosen.position);
  const again = (name) => (value) => ((chosen[name] = value), lineage());
  const controls = h(
    "div",
    { class: "controls" },
    pick(
      "Method",
      cells.map((cell) => [cell.method, cell.method]),
      chosen.method,
      again("method"),
    ),
    data.prompts.length > 1
      ? pick(
          "Prompt",
          data.prompts.map((prompt, i) => [i, text(prompt)]),
          chosen.position,
          again("position"),
        )
      : "",
    data.seeds.length > 1
      ? pick(
          "Seed",
          data.seeds.map((seed) => [seed, `seed ${seed}`]),
          state.seed,
          (seed) => ((state.seed = seed), images(), lineage()),
        )
      : "",
  );
  const drawn = n < 0 ? null : part(`lineage-${n}`);
  if (!drawn) {
    const why =
      n < 0 ? "This search has not finished yet." : "This page leaves the lineage of this search out, to stay small.";
    return host.replaceChildren(controls, caption(why));
  }
  arbour(host, controls, n, drawn);
}

function arbour(host, controls, n, drawn) {
  const search = data.searches[n],
    columns = grow(drawn, search),
    steps = drawn.width.length,
    clean = (step) => (drawn.reached ? drawn.reached[step] === drawn.reached[steps - 1] : step === steps - 1);
  const finite = columns.flatMap((column) => column.nodes.map((node) => node.value)).filter(known);
  const digits = digitsFor(finite, 0.5),
    said = (value) => fixed(value, digits);
  const pictures = imagesOf(n),
    tile = drawn.tile,
    scale = tile ? Math.min(1, 64 / Math.max(...tile)) * (Math.max(...tile) < 48 ? 48 / Math.max(...tile) : 1) : 1;
  const thumb = tile ? [Math.round(tile[0] * scale), Math.round(tile[1] * scale)] : [74, 28];
  const large = drawn.order.length > 4 ? 76 : 116,
    strips = new Map();
  let now = null,
    hover = null,
    layers = [],
    places = new Map();

  function strip(step) {
    if (!strips.has(step)) {
      const held = drawn.strips[step];
      const url = held ? URL.createObjectURL(new Blob([bits(held[0])], { type: "image/webp" })) : null;
      if (url) urls.push(url);
      const total = drawn.parent ? drawn.parent[step].length : drawn.alive[step] * drawn.width[step];
      strips.set(
        step,
        held && {
          url,
          held: held[1],
          columns: held[2],
          rows: Math.ceil((held[1] || { length: total }).length / held[2]),
        },
      );
    }
    return strips.get(step);
  }
  function paint(element, node, [width, height]) {
    element.style.width = `${width}px`;
    element.style.height = `${height}px`;
    const found = node.kind === "step" && strip(node.step);
    const at = found ? (found.held ? found.held.indexOf(node.j) : node.j) : -1;
    if (at < 0) return false;
    element.style.backgroundImage = `url("${found.url}")`;
    const part = (n, of) => (of > 1 ? `${(100 * n) / (of - 1)}%` : "0");
    element.style.backgroundSize = `${found.columns * 100}% ${found.rows * 100}%`;
    element.style.backgroundPosition = `${part(at % found.columns, found.columns)} ${part(Math.floor(at / found.columns), found.rows)}`;
    return true;
  }

  // ---- words
  const promptOf = (node) => (drawn.prompts ? text(data.prompts[drawn.prompts[node.root]]) : null);
  function name(node) {
    if (node.kind === "start") return `Beam ${node.j} of x_T`;
    if (node.kind === "returned") return `Image ${node.j + 1}`;
    if (node.kind === "undrawn") return `Step ${node.step}: ${plural(node.count, "candidate")}`;
    return `Step ${node.step}, candidate ${node.j}`;
  }
  function fate(node) {
    const leads = node.path.length ? `, forebear of image ${listed(node.path.map((image) => String(image + 1)))}` : "";
    if (node.kind === "undrawn") return "not drawn";
    if (node.kind === "returned") return "returned";
    if (node.kind === "start")
      return node.path.length ? `pure noise${leads}` : "pure noise, no descendant was returned";
    if (dropped(node)) return "dropped";
    return (node.copies > 1 ? `kept ${node.copies} times` : "kept") + leads;
  }
  const worth = (node) =>
    node.kind === "start"
      ? ""
      : node.kind === "undrawn"
        ? "not drawn"
        : Number.isNaN(node.value)
          ? "not scored"
          : said(node.value);
  const spoken = (node) =>
    [
      name(node),
      worth(node) && `value ${worth(node)}`,
      fate(node),
      hidden(node)
        ? `${plural(hidden(node), "child", "children")} ${node.open ? "shown" : "hidden"} that were not kept`
        : "",
    ]
      .filter(Boolean)
      .join(", ");

  // ---- what stands around the tree
  const total = columns.reduce(
    (sum, column) => sum + (column.kind === "step" ? column.nodes.filter((node) => node.drawn).length : 0),
    0,
  );
  const roots = new Set(drawn.ancestor).size;
  const what = h(
    "p",
    { class: "what" },
    h("b", {}, h("bdi", {}, chosen.method)),
    " on ",
    h(
      "bdi",
      { dir: "auto" },
      drawn.prompts
        ? `a pool of ${plural(search.positions.length, "prompt")}`
        : `\u201c${text(data.prompts[chosen.position])}\u201d`,
    ),
    `, seed ${state.seed}: ${plural(total, "candidate")} over ${plural(steps, "step")}; the ${drawn.order.length === 1 ? "image" : plural(drawn.order.length, "image")} returned ${drawn.order.length === 1 ? "descends" : "descend"} from ${roots} of ${plural(drawn.alive[0], "beam")} of x`,
    h("sub", {}, "T"),
    ".",
  );
  const box = h("div", { class: "tree-box" });
  const heads = h("div", { class: "heads", "aria-hidden": "true" });
  const canvas = h("div", {
    class: "canvas",
    role: "tree",
    "aria-label": `Lineage of ${chosen.method}`,
    "aria-orientation": "horizontal",
  });
  box.append(heads, canvas);
  const inspector = h("div", { class: "inspector" });
  const range = h("input", {
    type: "range",
    min: 0,
    max: columns.length - 1,
    value: 0,
    "aria-label": "Step",
    oninput: () => along(+range.value),
  });
  const where = h("output", {});
  const everyone = h("input", {
    type: "checkbox",
    onchange: () => {
      for (const node of all()) node.open = everyone.checked && hidden(node) > 0;
      render();
      show();
    },
  });
  const back = h(
    "button",
    { class: "plain", type: "button", onclick: () => along(now.column - 1, -1) },
    "\u2190 Step back",
  );
  const on = h("button", { class: "plain", type: "button", onclick: () => along(now.column + 1, 1) }, "Step on \u2192");
  const all = () => columns.flatMap((column) => column.nodes);
  controls.append(h("label", { class: "check" }, everyone, "Show all dropped candidates"));

  // ---- the tree
  const small = tile ? thumb.map((edge) => Math.round((edge * 42) / Math.max(...thumb))) : [50, 22];
  const cell = [Math.max(small[0], 34) + 8, small[1] + (tile ? 14 : 0) + 7];
  const tall = (node) =>
    node.kind === "start" ? 24 : node.kind === "returned" ? shape(node)[1] + LABEL : thumb[1] + (tile ? LABEL : 0);
  const stack = (kept) => kept.reduce((sum, node) => sum + tall(node) + GAP, kept.length ? -GAP : 0);
  const anchor = (node) => (node.kind === "start" || !(tile || node.kind === "returned") ? 0 : LABEL / 2);
  const line = (node) => places.get(node)[1] - anchor(node);

  /** Tiles side by side in the trays of a column, few while it stays low enough to be seen whole. */
  function across(groups) {
    const most = Math.max(0, ...groups.map((group) => group.tray.length));
    const high = (m) =>
      groups.reduce((sum, { kept, tray }) => sum + stack(kept) + Math.ceil(tray.length / m) * cell[1] + 2 * GAP, 0);
    let m = Math.min(2, most) || 1;
    while (m < Math.min(most, 5) && high(m) > 520) m++;
    return m;
  }
  function render() {
    const trays = visible(columns),
      gap = 46,
      xs = [],
      widths = [],
      tops = new Map();
    let x = 26,
      lowest = 0,
      highest = 0;
    layers = trays.map((groups) => groups.flatMap((group) => [...group.kept, ...group.tray]));
    places = new Map();
    columns.forEach((column, i) => {
      const m = across(trays[i]),
        tray = trays[i].some((group) => group.tray.length) ? m * cell[0] + 8 : 0;
      const own = { start: 24, plain: 64, returned: large, step: Math.max(thumb[0], tray) }[column.kind];
      xs.push(x);
      widths.push(own);
      const heights = trays[i].map(
        ({ kept, tray }) =>
          stack(kept) + (tray.length ? (kept.length ? GAP - 6 : 0) + Math.ceil(tray.length / m) * cell[1] + 8 : 0),
      );
      const wishes = trays[i].map(({ parent, kept }, n) =>
        parent ? line(parent) - (kept.length ? tall(kept[0]) / 2 - anchor(kept[0]) : cell[1] / 2) : 32 * n,
      );
      packed(wishes, heights).forEach((top, n) => {
        lowest = Math.min(lowest, top);
        highest = Math.max(highest, top + heights[n]);
        const group = trays[i][n];
        for (const node of group.kept) {
          places.set(node, [
            x,
            top + tall(node) / 2,
            node.kind === "returned" ? large : node.kind === "start" ? 24 : thumb[0],
            tall(node),
          ]);
          top += tall(node) + GAP;
        }
        if (group.kept.length) top -= 6;
        if (group.tray.length)
          tops.set(group.parent, [
            x - 4,
            top,
            m,
            Math.ceil(group.tray.length / m) * cell[1] + 8,
            Math.min(m, group.tray.length) * cell[0] + 8,
          ]);
        group.tray.forEach((node, k) =>
          places.set(node, [
            x + 4 + (k % m) * cell[0],
            top + 6 + Math.floor(k / m) * cell[1] + (cell[1] - 7) / 2,
            small[0],
            cell[1] - 7,
            true,
          ]),
        );
      });
      x += own + (column.kind === "plain" ? 26 : gap);
    });
    const room = Math.max(0, (Math.min(300, innerHeight * 0.4) - (highest - lowest)) / 2),
      down = 22 + room - lowest;
    for (const place of places.values()) place[1] += down;
    for (const tray of tops.values()) tray[1] += down;
    canvas.style.width = heads.style.width = `${x - gap + 40}px`;
    canvas.style.height = `${highest - lowest + 44 + 2 * room}px`;
    heads.replaceChildren(...columns.map((column, i) => title(column, xs[i] - (column.kind === "start" ? 10 : 2))));
    canvas.replaceChildren(
      edges(tops),
      ...[...tops.values()].map(trayOf),
      ...columns.map((column, i) => layer(column, i, xs[i], widths[i])),
    );
    if (!now || !places.has(now))
      now = layers.flat().find((node) => node.kind === "step" && node.path.includes(0)) || columns[0].nodes[0];
    mark();
  }
  function trayOf([x, y, , height, width]) {
    const made = h("div", { class: "tray", "aria-hidden": "true" });
    Object.assign(made.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    return made;
  }
  function shape(node) {
    if (!pictures[node.j]) return [large, 28];
    return [large, Math.round(large * (tile ? tile[1] / tile[0] : 1))];
  }
  function title(column, x) {
    const made = h("div", { class: "head" });
    const kept = new Set(column.nodes.filter((node) => !dropped(node))).size,
      drew = column.nodes.filter((node) => node.drawn).length;
    if (column.kind === "start") made.append(h("b", {}, "x", h("sub", {}, "T")), plural(column.nodes.length, "beam"));
    else if (column.kind === "plain")
      made.append(
        h("b", {}, column.way || plural(column.to - column.from + 1, "plain step")),
        column.to > column.from ? `${column.from} to ${column.to}` : `step ${column.from}`,
      );
    else if (column.kind === "returned") made.append(h("b", {}, "Returned"), plural(column.nodes.length, "image"));
    else
      made.append(
        h("b", {}, `Step ${column.step}${clean(column.step) ? ", clean" : ""}`),
        column.way || `${kept} of ${drew} kept`,
      );
    made.style.left = `${x}px`;
    return made;
  }
  function edges(tops) {
    const d = { dropped: "", kept: "", path: "" };
    const link = (kind, parent, x2, y2) => {
      const [px, , pw] = places.get(parent),
        x1 = px + pw,
        y1 = line(parent);
      const bend = Math.min(36, (x2 - x1) / 2),
        straight = Math.max(x1, x2 - 2 * bend);
      d[kind] += `M${x1},${y1}H${straight}C${straight + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
    };
    for (const [parent, [x, y]] of tops) link("dropped", parent, x, y + cell[1] / 2);
    for (const [node, [x]] of places)
      if (node.parent && !dropped(node)) link(node.path.length ? "path" : "kept", node.parent, x, line(node));
    return s(
      "svg",
      { class: "edges", width: "100%", height: "100%", "aria-hidden": "true" },
      ["dropped", "kept", "path"].map((kind) => d[kind] && s("path", { class: kind, d: d[kind] })),
    );
  }
  function layer(column, i, x, width) {
    if (column.kind === "plain") {
      const band = h("div", { class: "band-plain", "aria-hidden": "true" });
      band.style.left = `${x}px`;
      band.style.width = `${width}px`;
      return band;
    }
    const label =
      column.kind === "start" ? "x_T" : column.kind === "returned" ? "Returned images" : `Step ${column.step}`;
    return h(
      "div",
      { role: "group", "aria-label": label },
      layers[i].map((node, at) => draw(node, at, layers[i].length)),
    );
  }
  function draw(node, at, size) {
    const [x, y, width, height, tiny] = places.get(node),
      path = node.path.length > 0;
    const many = hidden(node),
      picture = h("div", { class: "thumb" });
    const kind =
      node.kind === "undrawn" ? "undrawn" : node.kind === "step" ? (dropped(node) ? "dropped" : "kept") : node.kind;
    const element = h(
      "div",
      {
        class: `node ${kind}${path ? " path" : ""}${tiny ? " tiny" : ""}`,
        role: "treeitem",
        tabindex: "-1",
        "aria-label": spoken(node),
        "aria-level": node.column + 1,
        "aria-posinset": at + 1,
        "aria-setsize": size,
        "aria-selected": "false",
        "aria-expanded": many ? String(node.open) : null,
        "data-step": node.step,
        "data-candidate": node.j,
        "data-value": worth(node),
        onclick: () => {
          choose(node);
          element.focus({ preventScroll: true });
        },
        onpointerenter: () => {
          hover = node;
          inspect();
        },
        onpointerleave: () => {
          hover = null;
          inspect();
        },
        onfocus: () => node !== now && choose(node),
      },
      picture,
    );
    element.style.left = `${x}px`;
    element.style.top = `${y - height / 2}px`;
    element.style.width = `${width}px`;
    if (node.kind === "start") {
      paint(picture, node, [24, 24]);
      picture.append(String(node.j));
    } else if (node.kind === "returned") {
      const src = pictures[node.j];
      if (src) picture.append(h("img", { src, alt: "" }));
      else {
        element.classList.add("boxed");
        paint(picture, node, shape(node));
        picture.append("no picture");
      }
      element.append(h("span", { class: "value" }, `${large > 100 ? "image " : ""}${node.j + 1}: ${worth(node)}`));
    } else {
      const painted = paint(picture, node, tiny ? small : thumb);
      if (node.kind === "undrawn") picture.append(h("span", {}, `${node.count} not drawn`));
      else if (!tile || !painted) {
        element.classList.add("boxed");
        picture.append(tile ? "" : worth(node));
      }
      if (tile && node.kind !== "undrawn") element.append(h("span", { class: "value" }, worth(node)));
      if (node.kind === "step")
        element.append(
          h(
            "span",
            { class: "mark", "aria-hidden": "true" },
            dropped(node) ? "\u00d7" : node.copies > 1 ? `\u2713${node.copies}` : "\u2713",
          ),
        );
    }
    if (many) {
      const more = h(
        "span",
        {
          class: "more",
          "aria-hidden": "true",
          title: node.open ? "hide what was dropped" : "show what was dropped",
          onclick: (event) => {
            event.stopPropagation();
            choose(node);
            toggle(node);
          },
        },
        node.open ? "\u2212" : lost(node) ? `+${lost(node)}` : "\u2026",
      );
      if (tile && node.kind === "step") more.style.top = `${thumb[1] / 2}px`;
      element.append(more);
    }
    node.element = element;
    return element;
  }
  function toggle(node) {
    if (!hidden(node)) return;
    node.open = !node.open;
    const focused = document.activeElement && canvas.contains(document.activeElement);
    render();
    if (focused) now.element.focus({ preventScroll: true });
    show();
  }

  // ---- moving
  function choose(node) {
    now = node;
    hover = null;
    mark();
  }
  function mark() {
    for (const element of canvas.querySelectorAll(".now")) {
      element.classList.remove("now");
      element.setAttribute("aria-selected", "false");
      element.tabIndex = -1;
    }
    now.element.classList.add("now");
    now.element.setAttribute("aria-selected", "true");
    now.element.tabIndex = 0;
    range.value = now.column;
    const column = columns[now.column];
    where.textContent =
      column.kind === "start"
        ? "pure noise"
        : column.kind === "returned"
          ? "returned"
          : `step ${column.step} (0\u2013${steps - 1})${column.way ? `, ${column.way}` : ""}`;
    range.setAttribute("aria-valuetext", where.textContent);
    back.disabled = now.column === 0;
    on.disabled = now.column === columns.length - 1;
    [...heads.children].forEach((head, i) => head.classList.toggle("now", i === now.column));
    inspect();
  }
  function show() {
    const [x, y, width, height] = places.get(now),
      room = 70;
    const to = {};
    if (x - room < box.scrollLeft) to.left = x - room;
    else if (x + width + room > box.scrollLeft + box.clientWidth) to.left = x + width + room - box.clientWidth;
    if (y - height / 2 - 12 < box.scrollTop) to.top = y - height / 2 - 12;
    else if (y + height / 2 + 74 > box.scrollTop + box.clientHeight) to.top = y + height / 2 + 74 - box.clientHeight;
    box.scrollTo(to);
  }
  function go(node) {
    inspector.setAttribute("aria-live", "off"); // what has the focus is read out anyway
    choose(node);
    now.element.focus({ preventScroll: true });
    show();
  }
  const best = (nodes) =>
    nodes.find((node) => node.path.includes(0)) ||
    nodes.find((node) => node.path.length) ||
    [...nodes].sort((a, b) => b.copies - a.copies)[0];
  const after = (node) => best(node.kids.filter((kid) => places.has(kid)));
  /** To a column: down or up from here where there is a way, else onto the path of the best image. */
  function along(column, by = 0) {
    column = Math.max(0, Math.min(columns.length - 1, column));
    while (columns[column].kind === "plain") column += by || 1;
    inspector.setAttribute("aria-live", "polite");
    const near = by < 0 ? now.parent : by > 0 ? after(now) : null;
    choose(near || best(layers[column]) || layers[column][0]);
    show();
  }
  canvas.addEventListener("keydown", (event) => {
    const layer = layers[now.column],
      at = layer.indexOf(now);
    const key = event.key;
    if (key === "ArrowUp" && at > 0) go(layer[at - 1]);
    else if (key === "ArrowDown" && at + 1 < layer.length) go(layer[at + 1]);
    else if (key === "ArrowLeft" && now.parent) go(now.parent);
    else if (key === "ArrowRight" && after(now)) go(after(now));
    else if (key === "Home") go(layer[0]);
    else if (key === "End") go(layer[layer.length - 1]);
    else if (key === "Enter" || key === " ") {
      if (hidden(now)) toggle(now);
      else if (after(now)) go(after(now));
      else if (now.parent) go(now.parent);
    } else if (!["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"].includes(key)) return;
    event.preventDefault();
  });

  // ---- the candidate that is looked at
  function inspect() {
    const node = hover || now,
      rows = [];
    const add = (term, words) => rows.push(h("dt", {}, term), h("dd", {}, words));
    if (node.kind !== "start") add(node.kind === "returned" ? state.objective : "value", worth(node));
    if (node.kind === "returned")
      data.held_out[state.objective].forEach((reward, i) =>
        add(reward, verdict(search.images[node.j][2][i], digitsOf(reward))),
      );
    if (node.kind === "returned" && known(search.images[node.j][3]))
      add("KL", `${fixed(search.images[node.j][3], 2)} nats`);
    if (node.kind === "step" && known(node.value)) {
      const peers = columns[node.column].nodes.filter((peer) => peer.drawn);
      add("rank", `${1 + peers.filter((peer) => peer.value > node.value).length} of ${peers.length}`);
      if (known(node.parent.value))
        add("to parent", (node.value >= node.parent.value ? "+" : "") + said(node.value - node.parent.value));
    }
    if (node.parent)
      add(
        "parent",
        node.parent.kind === "start"
          ? `beam ${node.parent.j} of x_T`
          : `step ${node.parent.step}, candidate ${node.parent.j}`,
      );
    if (node.kids.length && node.kind !== "returned" && node.kids[0].kind !== "returned") {
      add(
        "children",
        `${node.kids.filter((kid) => kid.drawn).length} drawn, ${node.kids.filter((kid) => !dropped(kid)).length} kept`,
      );
    }
    if (promptOf(node)) add("prompt", h("bdi", { dir: "auto" }, promptOf(node)));
    const big = h("div", { class: "big" }),
      wide = tile
        ? [Math.round((tile[0] / Math.max(...tile)) * 160), Math.round((tile[1] / Math.max(...tile)) * 160)]
        : [160, 160];
    let image = null;
    if (node.kind === "returned" && pictures[node.j])
      image = h("img", { class: "big", src: pictures[node.j], alt: "" });
    else if (
      tile &&
      node.kind === "step" &&
      paint(big, node, innerWidth <= 900 ? wide.map((edge) => Math.round(edge * 0.7)) : wide)
    )
      image = big;
    inspector.replaceChildren(
      ...[
        image,
        h("div", { class: "pane" }, h("h4", {}, name(node)), h("p", {}, fate(node)), h("dl", {}, rows)),
      ].filter(Boolean),
    );
    seen.here(node);
  }

  const seen = scatter(columns, steps, (node) => {
    if (!places.has(node)) {
      node.parent.open = true;
      render();
    }
    choose(node);
    show();
  });
  const key = (kind, mark, words) =>
    h("li", {}, h("span", { class: `key-node ${kind}`, "aria-hidden": "true" }, mark), words);
  host.replaceChildren(
    controls,
    what,
    seen.element,
    h("div", { class: "stepper" }, back, on, where, range),
    h(
      "div",
      { class: "tree-layout" },
      h(
        "div",
        {},
        box,
        h(
          "ul",
          { class: "keys" },
          key("path", "\u2713", "leads to an image returned"),
          key("kept", "\u2713", "kept (\u27132: twice)"),
          key("dropped", "\u00d7", "dropped"),
          columns.some((column) => column.nodes.some((node) => !node.drawn)) ? key("undrawn", "", "not drawn") : "",
          key("more", "+3", "children dropped: choose to show"),
        ),
        h(
          "ul",
          { class: "keys" },
          h("li", {}, h("kbd", {}, "\u2190"), h("kbd", {}, "\u2192"), "parent, child"),
          h("li", {}, h("kbd", {}, "\u2191"), h("kbd", {}, "\u2193"), "candidates of the step"),
          h("li", {}, h("kbd", {}, "Enter"), "show or hide dropped children, else go on"),
          h("li", {}, h("kbd", {}, "Home"), h("kbd", {}, "End"), "first and last"),
        ),
      ),
      inspector,
    ),
    caption(
      "Read from left to right: each column is a step, each node a candidate with the value it was chosen by",
      tile
        ? ", pictured by its decoded posterior mean; lines lead from parent to child, the thick one from noise to the images returned."
        : "; lines lead from parent to child, the thick one from noise to the images returned.",
      columns.some((column) => column.kind === "plain")
        ? " At plain steps each beam takes one child, and nothing is scored."
        : "",
      drawn.reached
        ? " This search goes back in noise: where a column says so, samples are noised again, to come down once more."
        : "",
    ),
  );
  if (columns.reduce((sum, column) => sum + column.nodes.filter((node) => node.drawn).length, 0) <= 480)
    for (const node of all()) node.open = lost(node) > 0;
  everyone.checked = all().some((node) => hidden(node)) && all().every((node) => !lost(node) || node.open);
  render();
  show();
  tree = { focus: () => now.element.focus({ preventScroll: true }) };
}
