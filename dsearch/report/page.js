// The header, the images and the configuration; then everything is drawn.

function header() {
  $("title").textContent = data.title;
  const held_out = [...new Set(Object.values(data.held_out).flat())];
  const parts = [
    plural(methods.length, "method"),
    plural(data.prompts.length, "prompt"),
    plural(data.seeds.length, "seed"),
  ];
  if (data.budgets.length > 1) parts.push(plural(data.budgets.length, "budget"));
  $("summary").append(
    `${listed(parts)} on ${listed(data.models)}. ${listed(data.objectives)} ${data.objectives.length > 1 ? "objective" : "objectives"} the search`,
    held_out.length ? `; ${listed(held_out)} ${held_out.length > 1 ? "are" : "is"} held out.` : ".",
  );
  for (const said of data.ties || []) note("", said);
  if (data.finished < data.units) {
    note("Unfinished. ", `${data.finished} of ${plural(data.units, "search run")} are done; the report is of those.`);
  }
  if (data.reduced && data.reduced.length) {
    const limit = data.limit >= 1e6 ? `${+(data.limit / 1e6).toFixed(1)} MB` : `${Math.round(data.limit / 1e3)} kB`;
    note(
      `Reduced to stay below ${limit}. `,
      `${data.reduced.join(" ")} The run\u2019s folder holds everything as it was made.`,
    );
  }
}
const note = (bold, words) => $("notes").append(h("p", { class: "note" }, h("strong", {}, bold), words));
const nothing = () => h("p", { class: "caption" }, "No search of this choice has finished yet.");
const caption = (...words) => h("p", { class: "caption" }, ...words);

let rowsShown = 12;
function images() {
  const cells = shown(),
    host = $("image-grid");
  if (!cells.length) return host.replaceChildren(nothing());
  const digits = digitsOf(state.objective);
  const some = data.prompts.slice(0, rowsShown);
  const body = some.map((prompt, position) => {
    const found = cells.map((cell) => {
      const n = searchOf(cell.method, state.seed, position);
      if (n < 0) return null;
      const own = data.searches[n].images
        .map((image, rank) => [image, rank])
        .filter(([image]) => image[0] === position);
      if (data.methods[cell.method] === "plain") own.sort(([a], [b]) => a[4] - b[4]);
      return { n, own };
    });
    const top = Math.max(
      ...found.map((one) => (one && one.own.length && known(one.own[0][0][1]) ? one.own[0][0][1] : -Infinity)),
    );
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("span", { class: "clamp", dir: "auto", title: prompt }, text(prompt))),
      found.map((one, i) => h("td", {}, picture(one, cells[i].method, position, top, digits))),
    );
  });
  const left = data.prompts.length - some.length;
  host.replaceChildren(
    data.seeds.length > 1
      ? h(
          "div",
          { class: "controls" },
          pick(
            "Seed",
            data.seeds.map((seed) => [seed, `seed ${seed}`]),
            state.seed,
            (seed) => ((state.seed = seed), images(), lineage()),
          ),
        )
      : "",
    scroller(
      "Images",
      h(
        "table",
        { class: "pictures" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("td", {}),
            cells.map((cell) => h("th", { scope: "col" }, h("bdi", {}, short(cell.method, 40)))),
          ),
        ),
        h("tbody", {}, body),
      ),
    ),
    left > 0
      ? h(
          "button",
          { class: "plain", type: "button", onclick: () => ((rowsShown += 48), images()) },
          `Show ${Math.min(left, 48)} more of ${data.prompts.length} prompts`,
        )
      : "",
    caption(
      `The best image of each method for a prompt${cells.some((cell) => data.methods[cell.method] === "plain") ? " (of plain sampling the first)" : ""}, with its ${state.objective} reward (bold: the highest of the row), and below it the others that were returned; choose one to walk its lineage.`,
    ),
  );
}

function picture(one, method, position, top, digits) {
  if (!one) return h("div", { class: "empty" }, "not finished");
  if (!one.own.length) return h("div", { class: "empty" }, "none survived");
  const urls = imagesOf(one.n),
    [[image, rank], ...rest] = one.own;
  const alt = `${method}: ${text(data.prompts[position])}`;
  const src = urls[rank];
  return [
    h(
      "button",
      {
        class: "pic",
        type: "button",
        "aria-label": `${alt}, ${state.objective} ${verdict(image[1], digits)}: walk its lineage`,
        onclick: () => walk(method, position),
      },
      src ? h("img", { src, alt: "", decoding: "async" }) : h("span", { class: "empty box-value" }, "no picture"),
      h("span", { class: image[1] === top ? "said best" : "said" }, verdict(image[1], digits)),
    ),
    rest.length
      ? h(
          "div",
          { class: "rest" },
          rest.slice(0, 4).map(([, r]) => urls[r] && h("img", { src: urls[r], alt: "", decoding: "async" })),
          rest.length > 4 ? `+${rest.length - 4} more` : "",
        )
      : "",
  ];
}

function walk(method, position) {
  chosen = { method, position };
  lineage();
  $("lineage").scrollIntoView();
  tree.focus();
}

function configuration() {
  const { versions = {}, devices = {}, threads } = data.about;
  const rows = [];
  const add = (term, words) => rows.push(h("dt", {}, term), h("dd", {}, words));
  add(
    "Versions",
    Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(", "),
  );
  for (const [model, device] of Object.entries(devices)) add(`Device of ${model}`, device);
  if (threads) add("Threads", String(threads));
  add("Budgets", data.budgets.join("; "));
  add("Seeds", data.seeds.join(", "));
  $("config").replaceChildren(
    h("dl", { class: "facts" }, rows),
    h(
      "details",
      { open: data.prompts.length <= 12 },
      h("summary", {}, "The experiment, with all defaults"),
      h("pre", { tabindex: "0" }, data.config),
    ),
  );
  document.body.append(
    h("footer", {}, `dsearch ${versions.dsearch || ""}. This page carries all its data and loads nothing.`),
  );
}

function draw() {
  for (const make of [rewards, bill, plan, curves, images, lineage]) make();
}
header();
choices();
configuration();
draw();
performance.mark("ready");
