// Tables and plots.

function scroller(label, table) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}
function swatch(method) {
  return s(
    "svg",
    { class: `swatch ${colour(method)}`, viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" },
    s("line", { x1: 0, x2: 26, y1: 5, y2: 5, "stroke-dasharray": dash(method) }),
  );
}
function whisker([mean, low, high], from, to) {
  const x = (value) => 3 + (114 * (value - from)) / (to - from || 1);
  return s(
    "svg",
    { class: "whisker", viewBox: "0 0 120 10", width: 120, height: 10, "aria-hidden": "true" },
    s("line", { class: "rail", x1: 0, x2: 120, y1: 5, y2: 5 }),
    low === null ? null : s("line", { class: "span", x1: x(low), x2: x(high), y1: 5, y2: 5 }),
    s("circle", { cx: x(mean), cy: 5, r: 3.2 }),
  );
}
/** The share of rewards that a mean leaves out, beside it. */
function left(rejected) {
  if (!known(rejected) || rejected === 0) return null;
  return h("span", { class: "quiet" }, ` ${percent(rejected)} rejected`);
}
/** The difference from the baseline, or, where a side rejected an image of a pair, which of the pairs is better. */
function apartFrom(said, digits) {
  if (said.above) return interval(said.above, digits);
  if (!said.pairs || !said.pairs[3]) return h("span", { class: "quiet" }, "\u2013");
  const [better, worse, alike, , clear] = said.pairs;
  return `better ${better}, worse ${worse} of ${better + worse + alike}${clear ? "" : " n.s."}`;
}
function interval(triple, digits) {
  const [mean, low, high] = triple;
  return [
    fixed(mean, digits),
    low === null ? null : h("span", { class: "quiet" }, ` [${fixed(low, digits)}, ${fixed(high, digits)}]`),
  ];
}

function rewards() {
  const cells = shown(true),
    host = $("rewards");
  if (!cells.length) return host.replaceChildren(nothing());
  const names = [state.objective, ...data.held_out[state.objective]];
  const several = data.budgets.length > 1;
  const has = (name) => cells.some((cell) => cell.rewards[name] !== null);
  const counted = cells.some(({ rewards: said }) => said.pairs && said.pairs[3]),
    rejects = cells.some((cell) => Object.values(cell.rewards.rejected).some((share) => share > 0));
  const above = has("above") || counted,
    kl = has("kl"),
    ess = has("ess"),
    first = data.baseline;
  const range = {},
    digits = {},
    apart = digitsWithin(
      cells.map((cell) => cell.rewards.above),
      3,
    );
  for (const name of names) {
    digits[name] = digitsWithin(
      cells.map((cell) => cell.rewards.means[name]),
      digitsOf(name),
    );
    const ends = cells.flatMap((cell) => cell.rewards.means[name]).filter(known);
    range[name] = [Math.min(...ends), Math.max(...ends)];
  }
  const head = (bold, words) => h("th", { scope: "col" }, h("b", {}, bold), words);
  const rows = cells.map((cell) => {
    const said = cell.rewards;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("span", { class: "method" }, swatch(cell.method), h("bdi", {}, cell.method))),
      several && h("td", {}, data.budgets[cell.budget]),
      names
        .slice(0, 1)
        .map((name) =>
          h(
            "td",
            {},
            interval(said.means[name], digits[name]),
            left(said.rejected[name]),
            known(said.means[name][0]) && whisker(said.means[name], ...range[name]),
          ),
        ),
      above && h("td", {}, apartFrom(said, apart)),
      names
        .slice(1)
        .map((name) =>
          h(
            "td",
            {},
            interval(said.means[name], digits[name]),
            left(said.rejected[name]),
            known(said.means[name][0]) && whisker(said.means[name], ...range[name]),
          ),
        ),
      kl && h("td", {}, fixed(said.kl, 2)),
      ess && h("td", {}, said.ess === null ? "\u2013" : `${said.ess.toFixed(1)} of ${said.images}`),
      h("td", {}, said.n === said.of ? said.n : `${said.n} of ${said.of}`),
    );
  });
  const table = h(
    "table",
    { class: "numbers" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        head("Method", ""),
        several && head("Budget", "a prompt"),
        head(state.objective, "objective"),
        above && head("difference", `to ${short(first, 24)}`),
        names.slice(1).map((name) => head(name, "held out")),
        kl && head("KL", "nats"),
        ess && head("ESS", "of the images"),
        head("n", "prompts \u00d7 seeds"),
      ),
    ),
    h("tbody", {}, rows),
  );
  const plain = cells.some((cell) => data.methods[cell.method] === "plain");
  host.replaceChildren(
    scroller("Final rewards", table),
    caption(
      `Mean reward of the best image of each prompt${plain ? " (of plain sampling, where nothing chooses, of all its images)" : ""} `,
      `with its 95% interval ${over()}, drawn to one scale a column; higher is better`,
      above ? `; differences to ${short(first, 40)} are paired.` : ".",
      rejects
        ? " Rejected: the share of rewards that are not finite, which means and intervals leave out."
        : " No reward is rejected: means leave none out.",
      counted
        ? " Where a side rejected an image of a pair no difference is claimed: pairs are counted, fewer rejections first, then the higher mean."
        : "",
      names.length > 1 ? " Held-out rewards never steer: a objective that rises while they fall has been fooled." : "",
      kl ? " KL: of the searched path to the pretrained one, where the choices made say it." : "",
      ess ? " ESS: effective number of the returned images by their weights." : "",
    ),
  );
}
const over = () =>
  data.repeated === "seeds"
    ? "over seeds (of these prompts)"
    : data.prompts.length > 1
      ? "over prompts"
      : "(none: one prompt, one seed)";

function bill() {
  const cells = shown(true),
    host = $("bill");
  if (!cells.length) return host.replaceChildren(nothing());
  const several = data.budgets.length > 1,
    units = ["model_calls", "decodes", "reward_calls", "comparisons"].filter(
      (_, i) => i < 3 || cells.some((cell) => cell.bill.planned[i]),
    );
  const both = (cell, i) =>
    h("td", {}, count(cell.bill.bill[i]), h("span", { class: "quiet" }, ` / ${count(cell.bill.planned[i])}`));
  const rows = cells.map(({ method, budget, bill }, n) =>
    h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        h(
          "span",
          { class: "method" },
          swatch(method),
          h("bdi", {}, method),
          bill.pooled && h("span", { class: "quiet" }, "(pool)"),
        ),
      ),
      several && h("td", {}, data.budgets[budget]),
      units.map((_, i) => both(cells[n], i)),
      h("td", {}, seconds(bill.seconds_a_prompt)),
      h("td", {}, seconds(bill.seconds)),
      h("td", {}, bytes(bill.peak_bytes)),
    ),
  );
  const head = (bold, words) => h("th", { scope: "col" }, h("b", {}, bold), words);
  const pooled = cells.some((cell) => cell.bill.pooled);
  host.replaceChildren(
    scroller(
      "The bill",
      h(
        "table",
        { class: "numbers" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head("Method", ""),
            several && head("Budget", "a prompt"),
            units.map((unit) => head(unit, "counted / planned")),
            head("seconds", "a prompt"),
            head("seconds", "in all"),
            head("memory", "peak"),
          ),
        ),
        h("tbody", {}, rows),
      ),
    ),
    caption(
      "What a search costs a prompt: rows through the network, samples decoded, images rewarded, as counted and as planned before the run; ",
      "seconds are wall-clock time",
      data.models.length ? ", the first search of a model warms up." : ".",
      pooled ? " (pool): all prompts share one pool, and each bears an equal part of its bill." : "",
    ),
  );
}

function ticks(low, high, most, whole) {
  if (!(high > low)) return [low];
  const rough = (high - low) / most,
    power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

/** Panels of lines over steps with one cursor, and a legend above that reads out the values there. */
function figure(host, { panels, steps, names, readout, label, at = steps - 1 }) {
  let now = at,
    pinned = null;
  const legend = h("div", { class: "readout scroll" });
  const box = h("div", {
    class: "panels",
    tabindex: "0",
    role: "slider",
    "aria-label": `${label}: step`,
    "aria-valuemin": 0,
    "aria-valuemax": steps - 1,
  });
  const draws = panels.map((panel) => {
    const holder = h("div", { class: "panel" }, h("h4", {}, panel.title));
    box.append(holder);
    return plot(holder, panel, steps, (step) => move(step));
  });
  function move(step) {
    now = Math.max(0, Math.min(steps - 1, step));
    const table = readout(now);
    [...table.tBodies[0].rows].forEach((row, i) => {
      row.addEventListener("pointerenter", () => light(names[i]));
      row.addEventListener("pointerleave", () => light(pinned));
      const button = row.querySelector("button");
      button.setAttribute("aria-pressed", String(pinned === names[i]));
      button.addEventListener("click", () => {
        pinned = pinned === names[i] ? null : names[i];
        for (const other of legend.querySelectorAll("button"))
          other.setAttribute("aria-pressed", String(other === button && pinned !== null));
        light(pinned);
      });
    });
    legend.replaceChildren(table);
    box.setAttribute("aria-valuenow", now);
    box.setAttribute(
      "aria-valuetext",
      `step ${now}: ` +
        [...table.tBodies[0].rows].map((row) => [...row.cells].map((c) => c.textContent).join(" ")).join("; "),
    );
    draws.forEach((one) => one.cursor(now));
  }
  const light = (name) => draws.forEach((one) => one.light(name));
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, Home: -1e9, End: 1e9 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    move(now + by);
  });
  host.replaceChildren(h("figure", {}, h("div", { class: "reading" }, box, legend)));
  move(now);
  draws.forEach((one) => one.watch());
  return host.firstChild;
}

function plot(holder, { series, height, zero, whole, stairs, y }, steps, move) {
  const svg = s("svg", { class: series.length > 4 ? "plot many" : "plot", height, "aria-hidden": "true" });
  holder.append(svg);
  const all = series.flatMap((one) => one.points.flatMap((p) => p.slice(1, 4))).filter(known);
  let low = all.length ? Math.min(...all) : 0,
    high = all.length ? Math.max(...all) : 1;
  if (zero) low = 0;
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  high += room;
  if (!zero) low -= room;
  const lone = series.filter((one) => one.points.length === 1).map((one) => one.name);
  let at = 0,
    x = () => 0,
    top = 8,
    bottom = height - 34;
  const yy = (value) => bottom - ((bottom - top) * (value - low)) / (high - low || 1);
  const cross = s("line", { class: "cross", y1: top, y2: bottom });
  const path = (points, of) =>
    points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)},${yy(of(p)).toFixed(1)}`).join("");
  function staircase(points) {
    return points
      .map((p, i) => {
        const left = i ? (x(p[0]) + x(points[i - 1][0])) / 2 : x(p[0]);
        const right = i + 1 < points.length ? (x(p[0]) + x(points[i + 1][0])) / 2 : x(p[0]);
        return `${i ? "L" : "M"}${left.toFixed(1)},${yy(p[1]).toFixed(1)}L${right.toFixed(1)},${yy(p[1]).toFixed(1)}`;
      })
      .join("");
  }
  function draw(width) {
    const yt = ticks(low, high, 5, whole),
      digits = decimals(yt);
    const words = yt.map((v) => minus(v.toFixed(digits)));
    const left = 12 + 6.7 * Math.max(...words.map((w) => w.length));
    const right = width - 10;
    x = (step) => (steps > 1 ? left + ((right - left) * step) / (steps - 1) : (left + right) / 2);
    const xt = ticks(0, steps - 1, Math.max(2, Math.min(12, Math.floor(width / 44))), true);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(
      ...yt.map((v, i) =>
        s(
          "g",
          {},
          s("line", { class: "grid", x1: left, x2: right, y1: yy(v), y2: yy(v) }),
          s("text", { x: left - 7, y: yy(v) + 4, "text-anchor": "end" }, words[i]),
        ),
      ),
      ...xt.map((v) => s("text", { x: x(v), y: bottom + 17, "text-anchor": "middle" }, String(v))),
      s("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
      s("text", { x: (left + right) / 2, y: height - 2, "text-anchor": "middle" }, y || "step"),
      cross,
      ...series.map(({ name, points }) => {
        const aside = points.length === 1 ? -11 * lone.indexOf(name) : 0;
        const banded = points.filter((p) => known(p[2]));
        const single = points.length === 1;
        const group = s(
          "g",
          { class: colour(name) },
          banded.length > 1 &&
            s("path", {
              class: "band",
              d: path(banded, (p) => p[2]) + path([...banded].reverse(), (p) => p[3]).replace("M", "L") + "Z",
            }),
          single &&
            known(points[0][2]) &&
            s("line", {
              class: "bar",
              x1: x(points[0][0]) + aside,
              x2: x(points[0][0]) + aside,
              y1: yy(points[0][2]),
              y2: yy(points[0][3]),
            }),
          points.length > 1 &&
            s("path", {
              class: "line",
              "stroke-dasharray": dash(name),
              d: stairs ? staircase(points) : path(points, (p) => p[1]),
            }),
          (single || (!stairs && points.length <= 30)) &&
            points.map((p) => s("circle", { class: "dot", cx: x(p[0]) + aside, cy: yy(p[1]), r: single ? 5 : 3 })),
        );
        group.setAttribute("data-name", name);
        return group;
      }),
    );
    cursor(at);
  }
  function cursor(step) {
    at = step;
    cross.setAttribute("x1", x(step));
    cross.setAttribute("x2", x(step));
  }
  const over = (event) => {
    const box = svg.getBoundingClientRect(),
      here = event.clientX - box.left;
    move(Math.round(((here - x(0)) / (x(steps - 1) - x(0) || 1)) * (steps - 1)));
  };
  svg.addEventListener("pointermove", over);
  svg.addEventListener("pointerdown", over);
  return {
    cursor,
    watch: () => new ResizeObserver(() => holder.clientWidth && draw(holder.clientWidth)).observe(holder),
    light(name) {
      svg.classList.toggle("dim", name !== null);
      for (const group of svg.querySelectorAll("g[data-name]"))
        group.classList.toggle("lit", group.getAttribute("data-name") === name);
    },
  };
}

function readoutTable(cells, heads, row, step) {
  return h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, `at step ${step}`),
        heads.map((words) => h("th", { scope: "col" }, words)),
      ),
    ),
    h(
      "tbody",
      {},
      cells.map((cell) =>
        h(
          "tr",
          {},
          h(
            "th",
            { scope: "row" },
            h("button", { class: "name", type: "button" }, swatch(cell.method), h("bdi", {}, short(cell.method, 40))),
          ),
          row(cell).map((entry) => h("td", {}, entry)),
        ),
      ),
    ),
  );
}

function plan() {
  const cells = shown(),
    host = $("plan-figure");
  if (!cells.length) return host.replaceChildren(nothing());
  const steps = Math.max(...cells.map((cell) => cell.plan.b.length));
  const series = (key) => cells.map(({ method, plan }) => ({ name: method, points: plan[key].map((n, i) => [i, n]) }));
  const title = (symbol, words) => [h("i", {}, symbol), h("span", {}, ` ${words}`)];
  const shape = { height: 200, zero: true, whole: true, stairs: true };
  const made = figure(host, {
    steps,
    label: "Plan",
    at: Math.floor((steps - 1) / 2),
    names: cells.map((cell) => cell.method),
    panels: [
      { title: title("b(t)", "beams alive"), series: series("b"), ...shape },
      { title: title("w(t)", "children a beam"), series: series("w"), ...shape },
      { title: title("b(t) \u00d7 w(t)", "rows"), series: series("rows"), ...shape },
    ],
    readout: (step) =>
      readoutTable(
        cells,
        ["beams alive", "children a beam", "rows"],
        ({ plan }) => ["b", "w", "rows"].map((key) => (step < plan.b.length ? count(plan[key][step]) : "\u2013")),
        step,
      ),
  });
  const kinds = cells.map((cell) => data.methods[cell.method]);
  made.append(
    h(
      "figcaption",
      {},
      "How each method spends its rows: beams alive before a step, children each of them draws, and the candidates these make; step 0 starts from pure noise and the last step ends at clean samples. ",
      kinds.includes("rbf")
        ? "With a rollover budget w(t) is the most that a beam could draw, and rows are those drawn. "
        : "",
      kinds.some((kind) => ["random_search", "zero_order"].includes(kind))
        ? "The rounds of a noise search are shown together. "
        : "",
      cells.some((cell) => cell.bill.pooled) ? "A pool counts the beams of all its prompts." : "",
    ),
  );
}

function curves() {
  const cells = shown(),
    host = $("curve-figure");
  if (!cells.length) return host.replaceChildren(nothing());
  const steps = Math.max(...cells.map((cell) => cell.plan.b.length));
  const digits = digitsWithin(
    cells.flatMap((cell) => cell.curve.map((point) => point.slice(1, 4))),
    digitsOf(state.objective),
  );
  const rejects = cells.some((cell) => cell.curve.some((point) => point[4] > 0));
  const made = figure(host, {
    steps,
    label: "Best value by step",
    names: cells.map((cell) => cell.method),
    panels: [
      {
        title: `Best ${state.objective} value of a step`,
        series: cells.map(({ method, curve }) => ({ name: method, points: curve.filter((p) => known(p[1])) })),
        height: 320,
      },
    ],
    readout: (step) =>
      readoutTable(
        cells,
        ["best value", "95% interval", ...(rejects ? ["rejected"] : [])],
        ({ curve }) => {
          const point = curve.find((p) => p[0] === step);
          if (!point) return ["not scored", "", ""].slice(0, rejects ? 3 : 2);
          return [
            fixed(point[1], digits),
            known(point[2]) ? `[${fixed(point[2], digits)}, ${fixed(point[3], digits)}]` : "",
            ...(rejects ? [known(point[4]) ? percent(point[4]) : ""] : []),
          ];
        },
        step,
      ),
  });
  made.append(
    h(
      "figcaption",
      {},
      "The highest value among a prompt\u2019s candidates at a step, a mean over prompts and seeds",
      cells.some((cell) => cell.bill.pooled) ? " (without prompts that a pool has dropped)" : "",
      `; the band is its 95% interval ${over()}`,
      cells.length > 4 ? ", shown for the method chosen in the legend" : "",
      rejects ? "; prompts of which all candidates are rejected are in neither, and their share stands beside" : "",
      ". Before the last step a value is the objective\u2019s reward of the posterior mean unless the method says otherwise, so early points judge blurs; lone dots, side by side, are methods that score only at the end.",
    ),
  );
}
