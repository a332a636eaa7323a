// Search, departments, the card of the point under the pointer, and the selected product.

/** An element with text and attributes; text never becomes markup. */
function element(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

/** The product's thumbnail; a dot in its department's colour if it has none. */
function picture(i, side) {
  const canvas = element("canvas", { class: "picture", width: side * 2, height: side * 2, "aria-hidden": "true" });
  canvas.style.width = canvas.style.height = `${side}px`;
  const to = canvas.getContext("2d");
  if (slot[i]) {
    atlas.decode().then(() => drawPicture(to, i, 0, 0, side * 2));
  } else {
    to.fillStyle = colourOf(i);
    to.arc(side, side, side / 3, 0, 2 * Math.PI);
    to.fill();
  }
  return canvas;
}

function pathLines(i) {
  const lines = [element("p", { class: "path" }, pathOf(i))];
  if (predicted[i] && isWrong(i)) lines.push(element("p", { class: "path wrong" }, `taken for: ${data.paths[predicted[i]]}`));
  else if (predicted[i] && truth[i]) lines.push(element("p", { class: "path right" }, "rightly classified"));
  return lines;
}

/** A list entry that selects the product. */
function entry(i) {
  const text = element("span", {}, titleOf(i), element("small", {}, pathOf(i).split(" > ").slice(-2).join(" > ")));
  const button = element("button", { "data-product": i, title: titleOf(i) }, picture(i, 34), text);
  button.addEventListener("click", () => select(i));
  button.addEventListener("pointerenter", () => { hovered = i; redraw(); });
  button.addEventListener("pointerleave", () => { hovered = -1; redraw(); });
  return element("li", {}, button);
}

function hover(i, x, y) {
  const card = $("card");
  if (i !== hovered) {
    hovered = i;
    card.hidden = i < 0;
    if (i >= 0) card.replaceChildren(picture(i, 64), element("div", {}, element("strong", {}, titleOf(i)), ...pathLines(i)));
    redraw();
  }
  if (i < 0) return;
  const left = x + 18 + card.offsetWidth > width ? x - 18 - card.offsetWidth : x + 18;
  const top = Math.min(y + 14, height - card.offsetHeight - 8);
  card.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
}

/** Select a product, light up its neighbours and fly there; -1 selects none. */
function select(i) {
  selected = i;
  hover(-1);
  $("chosen").hidden = i < 0;
  if (i >= 0) {
    setDepartment(department[i], true);
    $("chosen-picture").replaceChildren(picture(i, 72));
    $("chosen-title").textContent = titleOf(i);
    $("chosen-paths").replaceChildren(...pathLines(i));
    $("chosen-id").textContent = [data.ids[i], data.splits[split[i]]].filter(Boolean).join(" · ");
    $("neighbours").replaceChildren(...neighboursOf(i).map(entry));
    $("chosen").scrollTop = 0;
    $("said").textContent = `Selected: ${titleOf(i)}, ${pathOf(i)}`;
    const [x, y, z] = placeOf(i);
    const spread = neighboursOf(i).map((j) => Math.hypot(place[3 * j] - x, place[3 * j + 1] - y, place[3 * j + 2] - z)).sort((a, b) => a - b);
    const most = spread[Math.floor(spread.length * 0.6)] || 0.1; // so that most of the neighbours are in sight
    fly([x, y, z], EXTENT * Math.max(0.15, Math.min(1.2, (3.2 * most) / EXTENT)));
  }
  updateEmphasis();
}

const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
let plainTitles = null;
const MOST_RESULTS = 6;

/** Products whose titles have all the words; departments that are hidden stay out. */
function search() {
  const words = plain($("search").value).split(/\s+/).filter(Boolean), found = [];
  let count = 0;
  plainTitles ??= data.titles.map(plain);
  hits = words.length ? new Uint8Array(N) : null;
  for (let i = 0; hits && i < N; i++) {
    if (!shown[department[i]] || !words.every((word) => plainTitles[i].includes(word))) continue;
    hits[i] = 1;
    count += 1;
    if (found.length < MOST_RESULTS) found.push(i);
  }
  $("found").textContent = hits ? `${count.toLocaleString("en")} found` : "";
  $("results").replaceChildren(...found.map(entry));
  updateEmphasis();
  return found;
}

function setDepartment(number, on) {
  if (shown[number] === on) return;
  shown[number] = on;
  $("departments").querySelectorAll("input")[number].checked = on;
}

function filterAll(on) {
  shown.forEach((_, number) => setDepartment(number, on));
  search();
}

function buildPanel() {
  document.title = `Constellation: ${data.name}`;
  $("subtitle").textContent = `${N.toLocaleString("en")} products of ${data.name.replaceAll("_", " ")}`;
  $("wrong-count").textContent = wrongCount.toLocaleString("en");
  $("wrong").closest("label").hidden = !predicted.some(Boolean);
  $("options").open = !narrow.matches;
  data.departments.forEach(({ name, colour, count }, number) => {
    const box = element("input", { type: "checkbox", checked: "" });
    box.style.accentColor = colour;
    box.addEventListener("change", () => { shown[number] = box.checked; search(); });
    const label = element("label", {}, box, element("span", {}, name), element("small", {}, count.toLocaleString("en")));
    $("departments").append(element("li", {}, label));
  });
  for (const id of ["wrong", "level-1", "level-2"]) $(id).addEventListener("change", updateEmphasis);
  $("all").addEventListener("click", () => filterAll(true));
  $("none").addEventListener("click", () => filterAll(false));
  $("reset").addEventListener("click", reset);
  $("close").addEventListener("click", () => { select(-1); $("sky").focus(); });
  $("options").addEventListener("toggle", redraw);
  $("search").addEventListener("input", search);
  $("search").addEventListener("keydown", (event) => {
    const found = event.key === "Enter" ? search() : [];
    if (found.length) select(found[0]);
  });
}

function reset() {
  select(-1);
  fly([...HOME.target], HOME.distance, { yaw: HOME.yaw, pitch: HOME.pitch });
}
