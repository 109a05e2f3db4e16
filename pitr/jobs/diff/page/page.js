// SPDX-License-Identifier: GPL-2.0-or-later
// Draws the page from its data (see pitr/jobs/diff/page/__init__.py). Names from outside only become text.
// A bar is [start, end, points, fulls, stored, changed, id, last point]. Times are milliseconds; data.times has their texts.
// A link of a chain is [layer, place in data.backups, kind, stored, data bytes, zero bytes].
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const tip = document.getElementById("tip");
const announcement = document.getElementById("announcement");
const when = (time) => data.times[time];
// The address can select the first view: page.html#different, #rows, #disk=1, or several with commas.
const view = new Map(location.hash.slice(1).split(",").map((part) => part.split("=")));
const state = { curve: view.has("rows") ? "rows" : "hilbert", different: view.has("different"), disk: Number(view.get("disk") ?? -1), only: null };

// Text

const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB"];
function size(bytes) {
  if (Math.abs(bytes) < 1024) return `${Math.round(bytes)} B`;
  let value = bytes, unit = -1;
  do { value /= 1024; unit++; } while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1);
  return `${Number(value.toPrecision(3))} ${UNITS[unit]}`;
}
const exact = (bytes) => bytes.toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
const share = (part, whole) => {
  const percent = whole ? part / whole * 100 : 0;
  return percent === 0 || percent === 100 ? `${percent} %` : percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
};
const count = (number, one, many) => `${exact(number)} ${number === 1 ? one : many}`;
const short = (id) => id.slice(0, 8);

// Elements

function make(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}
function draw(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}
function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const number = (bytes) => make("td", { class: "number", title: `${exact(bytes)} bytes` }, size(bytes));
function table(columns, rows, options = {}) {
  const head = columns.map((column) => make("th", { scope: "col", class: column.endsWith("#") ? "number" : null },
    column.replace("#", "")));
  return make("table", options, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}
const scrolling = (name, inner, kind = "scroll") =>
  make("div", { class: kind, tabindex: 0, role: "region", "aria-label": name }, inner);

// The tip beside the pointer

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x + 14), innerWidth - box.width - 8);
  const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}
const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// Makes a drawing respond to pointer and keys. `places`: their number; `find(x, y)` returns the place at a position;
// `show(n)` marks a place and returns its text; `keys(key, n)` returns the place that a key moves to.
function explorable(svg, { places, find, show, centre, keys, clear }) {
  let at = -1;
  const go = (next, x, y, speak) => {
    if (next < 0 || next >= places) { clear(); hideTip(); at = -1; return; }
    at = next;
    const text = show(at);
    showTip(text, x, y);
    if (speak) announcement.textContent = text.replaceAll("\n", ". ");
  };
  const local = (event) => {
    const box = svg.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const pointed = (event) => go(find(...local(event)), event.clientX, event.clientY, false);
  svg.addEventListener("pointermove", pointed);
  svg.addEventListener("pointerdown", pointed);
  svg.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && document.activeElement !== svg) { clear(); hideTip(); }
  });
  svg.addEventListener("blur", () => { clear(); hideTip(); });
  svg.addEventListener("keydown", (event) => {
    const step = keys(event.key, at);
    if (step === null) return;
    event.preventDefault();
    const next = Math.min(places - 1, Math.max(0, step));
    const box = svg.getBoundingClientRect();
    const [x, y] = centre(next);
    go(next, box.left + x * box.width, box.top + y * box.height, true);
  });
}

// Colours: old is pale, new is strong, on light and dark backgrounds. There is one hue; only the lightness differs.

const dark = matchMedia("(prefers-color-scheme: dark)");
const LIGHT_STOPS = [[206, 224, 241], [107, 167, 214], [33, 105, 176], [7, 34, 84]];
const DARK_STOPS = [[44, 80, 118], [52, 115, 168], [98, 170, 226], [226, 242, 255]];
function shade(position) {
  const stops = dark.matches ? DARK_STOPS : LIGHT_STOPS;
  const scaled = position * (stops.length - 1);
  const from = Math.min(stops.length - 2, Math.floor(scaled));
  const mix = stops[from].map((low, channel) => Math.round(low + (stops[from + 1][channel] - low) * (scaled - from)));
  return `rgb(${mix.join(" ")})`;
}
// By rank of age among the backups that the point reads from; position 1 is the newest.
function shades(picture) {
  const read = picture.links.filter((link) => link[4]).map((link) => link[0]).sort((one, other) => one - other);
  return new Map(read.map((layer, rank) => [layer, shade(read.length === 1 ? 1 : 1 - rank / (read.length - 1))]));
}

// The two orders of cells in a square. Both return [column, row] of cell n.

function hilbert(side) {
  return (n) => {
    let x = 0, y = 0, rest = n;
    for (let scale = 1; scale < side; scale *= 2) {
      const right = 1 & (rest >> 1), up = 1 & (rest ^ right);
      if (!up) {
        if (right) { x = scale - 1 - x; y = scale - 1 - y; }
        [x, y] = [y, x];
      }
      x += scale * right;
      y += scale * up;
      rest >>= 2;
    }
    return [x, y];
  };
}
const rows = (side) => (n) => [n % side, Math.floor(n / side)];

// The head

function headline() {
  const same = data.before.id === data.after.id;
  const point = (backup) => make("dd", {}, when(backup.time), " ", make("code", {}, `${backup.kind} ${short(backup.id)}`));
  return make("header", {},
    make("h1", {}, `${data.vm.name}: what changed`),
    make("dl", { class: "points" },
      make("dt", {}, "From"), point(data.before),
      make("dt", {}, "To"), same ? make("dd", {}, "the same point: there is no other point between the two times") : point(data.after)));
}

function figures() {
  const sum = (pick) => data.disks.reduce((total, disk) => total + pick(disk), 0);
  const whole = sum((disk) => disk.size_after ?? 0);
  const different = sum((disk) => disk.data_bytes + disk.zero_bytes);
  const minutes = (data.after.time - data.before.time) / 60000;
  const apart = minutes >= 2880 ? `${(minutes / 1440).toFixed(1)} days` : minutes >= 60 ? `${(minutes / 60).toFixed(1)} hours`
    : minutes >= 1 ? `${Math.round(minutes)} min` : `${Math.round(minutes * 60)} s`;
  const one = (value, text, bytes = null) =>
    make("div", { title: bytes === null ? null : `${exact(bytes)} bytes` }, make("b", {}, value), make("span", {}, text));
  return make("section", { class: "card figures", "aria-label": "In short" },
    one(size(different), `different, ${share(different, whole)} of ${size(whole)}`, different),
    one(size(sum((disk) => disk.data_bytes)), `data now, ${size(sum((disk) => disk.new_bytes))} of it zero before`, sum((disk) => disk.data_bytes)),
    one(size(sum((disk) => disk.zero_bytes)), "zero now, data before", sum((disk) => disk.zero_bytes)),
    one(apart, "between the two points"));
}

function stateOf(disk) {
  if (disk.size_before === null) return "only in the later point";
  if (disk.size_after === null) return "only in the earlier point";
  const grown = disk.size_after - disk.size_before;
  if (grown) return `${grown > 0 ? "grown" : "shrunk"} by ${size(Math.abs(grown))}`;
  return disk.state;
}

function disks() {
  const body = data.disks.map((disk, place) => make("tr", { "data-disk": place },
    make("td", {}, make("button", { type: "button", class: "link", onclick: () => choose(place) }, disk.name || disk.id),
      disk.note ? make("small", {}, disk.note) : null),
    make("td", { class: "time" }, stateOf(disk)),
    number(disk.size_after ?? disk.size_before),
    number(disk.data_bytes + disk.zero_bytes),
    number(disk.data_bytes), number(disk.new_bytes), number(disk.zero_bytes),
    make("td", { class: "number" }, exact(disk.extents))));
  return make("section", { class: "card", "aria-label": "Disks" },
    make("div", { class: "head" }, make("h2", {}, "Disks"),
      make("span", { class: "muted" }, "Choose a disk to see its map")),
    scrolling("Disks", table(["Disk", "State", "Size#", "Different#", "Data now#", "of it new#", "Zero now#", "Extents#"], body)));
}

function choose(place) {
  state.disk = place;
  state.only = null;
  for (const row of page.querySelectorAll("tr[data-disk]")) {
    const chosen = Number(row.dataset.disk) === place;
    row.classList.toggle("chosen", chosen);
    row.querySelector("button").setAttribute("aria-pressed", chosen);
  }
  drawDisk();
  drawRate();
}

// The map of a disk

const mapCard = make("section", { class: "card", id: "map", "aria-label": "Map of the disk" });

function drawDisk() {
  hideTip();
  const disk = data.disks[state.disk];
  const picture = disk.picture;
  const name = disk.name || disk.id;
  if (!picture) {
    mapCard.replaceChildren(make("h2", {}, name), make("p", { class: "muted" }, "The later point holds no data of this disk to draw."));
    return;
  }
  const colours = shades(picture);
  const figure = make("figure", {}, map(picture, colours, name),
    make("figcaption", {}, `${count(picture.data.length, "cell", "cells")} of ${size(picture.cell)} (${exact(picture.cell)} bytes), ` +
      (state.curve === "hilbert" ? "along a Hilbert curve: ranges that are close on the disk are close on the map." : "row by row.")));
  mapCard.replaceChildren(
    make("div", { class: "head" },
      make("div", {}, make("h2", {}, name), make("span", { class: "muted" }, `${size(picture.size)}, at the later point`)),
      controls()),
    make("div", { class: "pair" }, make("div", {}, figure, key(colours)), chain(picture, colours)));
}

function controls() {
  const way = (value, text) => make("label", {},
    make("input", { type: "radio", name: "curve", value, checked: state.curve === value,
      onchange: () => { state.curve = value; drawDisk(); document.querySelector(`input[value=${value}]`).focus(); } }), text);
  return make("div", { class: "controls" },
    make("label", { class: "check" },
      make("input", { type: "checkbox", id: "show-different", checked: state.different,
        onchange: (event) => { state.different = event.target.checked; drawDisk(); document.getElementById("show-different").focus(); } }),
      "Show differences"),
    make("div", { class: "segments", role: "radiogroup", "aria-label": "Order of the cells" }, way("hilbert", "Hilbert"), way("rows", "Rows")));
}

const UNIT = 10;
function map(picture, colours, name) {
  const cells = picture.data.length;
  let side = 1;
  while (side * side < cells) side *= 2;
  const place = (state.curve === "hilbert" ? hilbert : rows)(side);
  const places = Array.from({ length: cells }, (_, n) => place(n));
  const height = Math.max(...places.map(([, row]) => row)) + 1;
  const width = Math.max(...places.map(([column]) => column)) + 1;
  const inverse = new Map(places.map(([column, row], n) => [row * side + column, n]));
  const svg = draw("svg", { class: `map${state.different ? " dimmed" : ""}`, viewBox: `0 0 ${width * UNIT} ${height * UNIT}`, tabindex: 0,
    role: "application", "aria-roledescription": "map", "aria-label": `Map of ${name}: ${cells} cells. Arrow keys go from cell to cell.` });
  let zero = "", never = "", emptied = "";
  const coloured = [], different = [];
  places.forEach(([column, row], n) => {
    const x = column * UNIT, y = row * UNIT, length = lengthOf(picture, n);
    const path = `M${x + 0.5} ${y + 0.5}h${UNIT - 1}v${UNIT - 1}h${1 - UNIT}z`;
    if (picture.never[n] === length) never += path; else zero += path;
    if (picture.data[n]) {
      // The area shows how much of the cell is data.
      const edge = Math.max(2.5, (UNIT - 1) * Math.sqrt(picture.data[n] / length)), inset = (UNIT - edge) / 2;
      const layer = picture.parts[n][0];
      coloured.push(draw("rect", { class: `cell${state.only === null || has(picture, n, state.only) ? "" : " aside"}`, "data-cell": n, x: x + inset, y: y + inset,
        width: edge, height: edge, fill: colours.get(layer) }));
    }
    if (!state.different) return;
    const [now, gone] = [picture.different_data[n], picture.different_zero[n]];
    if (now) {
      const edge = Math.max(2.5, (UNIT - 1) * Math.sqrt(now / length)), inset = (UNIT - edge) / 2;
      different.push(draw("rect", { class: "different", "data-cell": n, x: x + inset, y: y + inset, width: edge, height: edge }));
    }
    if (gone) {
      const edge = Math.max(2.5, (UNIT - 2.6) * Math.sqrt(gone / length)), inset = (UNIT - edge) / 2;
      emptied += `M${x + inset} ${y + inset}h${edge}v${edge}h${-edge}z`;
    }
  });
  const cursor = draw("rect", { class: "cursor", width: UNIT, height: UNIT, visibility: "hidden" });
  svg.append(draw("path", { class: "zero", d: zero }), draw("path", { class: "never", d: never }), ...coloured, ...different,
    draw("path", { class: "emptied", d: emptied }), cursor);
  const beside = (n, columns, lines) => {
    if (n < 0) return 0;
    const [column, row] = places[n];
    return inverse.get((row + lines) * side + column + columns) ?? n;
  };
  explorable(svg, {
    places: cells,
    find: (x, y) => x < 0 || y < 0 || x >= 1 || y >= 1 ? -1
      : inverse.get(Math.floor(y * height) * side + Math.floor(x * width)) ?? -1,
    centre: (n) => [(places[n][0] + 0.5) / width, (places[n][1] + 0.5) / height],
    show: (n) => {
      cursor.setAttribute("x", places[n][0] * UNIT);
      cursor.setAttribute("y", places[n][1] * UNIT);
      cursor.setAttribute("visibility", "visible");
      return cellText(picture, n);
    },
    clear: () => cursor.setAttribute("visibility", "hidden"),
    keys: (key, n) => ({ ArrowLeft: beside(n, -1, 0), ArrowRight: beside(n, 1, 0), ArrowUp: beside(n, 0, -1),
      ArrowDown: beside(n, 0, 1), Home: 0, End: cells - 1, PageUp: n - 64, PageDown: n + 64 })[key] ?? null,
  });
  return svg;
}

const lengthOf = (picture, n) => Math.min(picture.cell, picture.size - n * picture.cell);
function has(picture, n, layer) {
  for (let part = 0; part < picture.parts[n].length; part += 2) if (picture.parts[n][part] === layer) return true;
  return false;
}

function cellText(picture, n) {
  const start = n * picture.cell, length = lengthOf(picture, n);
  const lines = [`${size(start)} to ${size(start + length)}`, `bytes ${exact(start)} to ${exact(start + length - 1)}`];
  const links = new Map(picture.links.map((link) => [link[0], data.backups[link[1]]]));
  const parts = picture.parts[n];
  let shown = 0;
  for (let part = 0; part < parts.length; part += 2) {
    const backup = links.get(parts[part]);
    shown += parts[part + 1];
    lines.push(`${exact(parts[part + 1])} data from ${when(backup.time)} (${backup.kind} ${short(backup.id)})`);
  }
  if (picture.data[n] > shown) lines.push(`${exact(picture.data[n] - shown)} data from other backups`);
  const zero = length - picture.data[n] - picture.never[n];
  if (zero) lines.push(`${exact(zero)} zero`);
  if (picture.never[n]) lines.push(`${exact(picture.never[n])} never written`);
  const [now, gone] = [picture.different_data[n], picture.different_zero[n]];
  lines.push(now || gone ? `Different: ${[now ? `${exact(now)} data now` : "", gone ? `${exact(gone)} zero now` : ""].filter(Boolean).join(", ")}`
    : "The same at both points");
  return lines.join("\n");
}

function key(colours) {
  const swatch = (kind, text) => make("li", {}, make("span", { class: `swatch ${kind}` }), text);
  const ramp = make("span", { class: "ramp" });
  for (let step = 0; step < 8; step++) {
    const part = make("i", {});
    part.style.background = shade(step / 7);
    ramp.append(part);
  }
  return make("ul", { class: "key" },
    colours.size > 1 ? make("li", {}, "data, old", ramp, "new") : null,
    swatch("zero", "zero"), swatch("never", "never written"),
    state.different ? swatch("different", "different, data now") : null,
    state.different ? swatch("emptied", "different, zero now") : null);
}

function chain(picture, colours) {
  const body = picture.links.map(([layer, place, kind, stored, live, zero]) => {
    const backup = data.backups[place];
    const swatch = make("span", { class: "swatch" });
    if (colours.has(layer)) swatch.style.background = colours.get(layer);
    const marks = [backup.id === data.after.id ? "the later point" : "", backup.id === data.before.id ? "the earlier point" : ""].filter(Boolean);
    return make("tr", { class: state.only === layer ? "chosen" : null },
      make("td", { class: "time" }, swatch, live
        ? make("button", { type: "button", class: "link", "aria-pressed": state.only === layer, "data-layer": layer,
          onclick: () => { state.only = state.only === layer ? null : layer; drawDisk(); mapCard.querySelector(`[data-layer="${layer}"]`).focus(); } }, when(backup.time))
        : when(backup.time),
      make("small", {}, `${kind} ${short(backup.id)}${marks.length ? `, ${marks.join(", ")}` : ""}`)),
      number(stored),
      make("td", { class: "number", title: `${exact(live)} bytes` }, size(live), make("small", {}, share(live, picture.size))),
      number(zero));
  });
  const rest = [["never written", picture.never_written]].filter(([, bytes]) => bytes)
    .map(([text, bytes]) => make("tr", {}, make("td", {}, make("span", { class: "swatch never" }), text), make("td", {}), make("td", {}), number(bytes)));
  return make("div", {},
    make("h2", {}, `The chain: ${count(picture.links.length + picture.unread, "stream", "streams")}`),
    make("p", { class: "hint" }, "The bytes that the disk at the later point reads from each stream. Choose a stream to see only its cells."),
    scrolling("The chain", table(["Backup", "Stored#", "Data read#", "Zero#"], [...body, ...rest]), "chain"),
    picture.unread ? make("p", { class: "hint" }, `${count(picture.unread, "more stream", "more streams")}, which the later point reads nothing from.`) : null);
}

// Time

const timeCard = make("section", { class: "card", id: "points", "aria-label": "All points" });
const rateCard = make("section", { class: "card", id: "rate", "aria-label": "Change rate" });
const MARGIN = { left: 66, right: 12, top: 22, bottom: 24 };

function frame(card, height) {
  const width = Math.max(260, card.clientWidth - 2 * parseFloat(getComputedStyle(card).paddingLeft || 0));
  const first = data.bars[0][0], last = data.bars[data.bars.length - 1][1];
  const inner = width - MARGIN.left - MARGIN.right - 12;
  return { width, height, bottom: height - MARGIN.bottom,
    x: (time) => MARGIN.left + 6 + (last > first ? (time - first) / (last - first) : 0.5) * inner };
}
function ticks({ x, bottom, width }) {
  const most = Math.max(2, Math.floor((width - MARGIN.left) / 78)), every = Math.ceil(data.ticks.length / most);
  return data.ticks.filter((_, n) => n % every === 0).map(([time, text]) => draw("text", { x: x(time), y: bottom + 17,
    "text-anchor": "middle" }, text));
}
function lines({ width, bottom }, values, y) {
  return [...values.flatMap((value) => [
    draw("line", { class: "guide", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
    draw("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, size(value))]),
  draw("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom })];
}

function drawPoints() {
  const grouped = data.bars.some((bar) => bar[2] > 1);
  const drawing = frame(timeCard, 210);
  const { x, bottom, width, height } = drawing;
  const sizes = data.bars.flatMap((bar) => [bar[4], bar[5]]).filter((bytes) => bytes > 0);
  // Each line is four times the line below, because fulls and incrementals differ by orders of magnitude.
  const low = Math.floor(Math.log2(Math.max(1, Math.min(...sizes, 1 << 30))) / 2), high = Math.max(low + 1, Math.ceil(Math.log2(Math.max(2, ...sizes)) / 2));
  const y = (bytes) => bottom - 6 - (Math.log2(Math.max(1, bytes)) / 2 - low) / (high - low) * (bottom - 12 - MARGIN.top);
  const steps = Math.max(1, Math.ceil((high - low) / 4)), values = [];
  for (let power = low; power <= high; power += steps) values.push(4 ** power);
  const links = new Set(data.disks.flatMap((disk) => disk.picture ? disk.picture.links.map((link) => data.backups[link[1]].id) : []));
  const svg = draw("svg", { height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application", "aria-roledescription": "chart",
    "aria-label": `All points over time, ${data.bars.length} marks. Arrow keys go from mark to mark.` });
  const [from, to] = [x(data.before.time), x(data.after.time)];
  svg.append(...lines(drawing, values, y), ...ticks(drawing));
  if (to > from) svg.append(draw("rect", { class: "between", x: from, width: to - from, y: MARGIN.top, height: bottom - MARGIN.top }));
  const marked = data.before.id === data.after.id ? [[from, "both"]] : [[from, "from"], [to, "to"]];
  for (const [at, text] of marked) {
    const end = text === "from" && to - from < 44 ? "end" : at > width - 40 ? "end" : at < MARGIN.left + 20 ? "start" : "middle";
    svg.append(draw("line", { class: "mark", x1: at, x2: at, y1: MARGIN.top, y2: bottom }),
      draw("text", { class: "mark-text", x: at, y: MARGIN.top - 7, "text-anchor": end }, text));
  }
  const radius = data.bars.length > 150 ? 2 : data.bars.length > 60 ? 3 : 4;
  const middle = (bar) => (x(bar[0]) + x(bar[1])) / 2;
  data.bars.forEach((bar, n) => {
    const at = middle(bar), group = draw("g", { class: grouped || links.has(bar[6]) ? "point" : "point elsewhere", "data-bar": n });
    group.append(draw("line", { class: "stem", x1: at, x2: at, y1: y(bar[4]), y2: y(bar[5]) }),
      draw("circle", { class: "changed", cx: at, cy: y(bar[5]), r: radius - 0.5 }),
      bar[3] ? draw("rect", { class: "stored", x: at - radius, y: y(bar[4]) - radius, width: 2 * radius, height: 2 * radius })
        : draw("circle", { class: "stored", cx: at, cy: y(bar[4]), r: radius }));
    svg.append(group);
  });
  const here = draw("rect", { class: "here", width: 2 * radius + 6, y: MARGIN.top, height: bottom - MARGIN.top, visibility: "hidden" });
  svg.append(here);
  const middles = data.bars.map(middle);
  const nearest = (place) => middles.reduce((best, one, n) => Math.abs(one - place) < Math.abs(middles[best] - place) ? n : best, 0);
  explorable(svg, {
    places: data.bars.length,
    find: (across) => nearest(across * width),
    centre: (n) => [middles[n] / width, 0.4],
    show: (n) => { here.setAttribute("x", middles[n] - radius - 3); here.setAttribute("visibility", "visible"); return barText(data.bars[n], links, grouped); },
    clear: () => here.setAttribute("visibility", "hidden"),
    keys: (key, n) => ({ ArrowLeft: n < 0 ? 0 : n - 1, ArrowRight: n + 1, Home: 0, End: data.bars.length - 1 })[key] ?? null,
  });
  const dot = (kind, text) => make("li", {}, make("span", { class: `swatch ${kind}` }), text);
  const points = data.bars.reduce((total, bar) => total + bar[2], 0);
  const opened = timeCard.querySelector("details")?.open ?? false;
  timeCard.replaceChildren(
    make("div", { class: "head" }, make("h2", {}, `All points of the VM: ${exact(points)}`),
      make("span", { class: "muted" }, `${size(data.bars.reduce((total, bar) => total + bar[4], 0))} stored. Each line of the scale is ${4 ** steps} times the one below`)),
    svg,
    make("ul", { class: "key" }, dot("dot", "stored"), dot("square", grouped ? "stored, with a full" : "stored, a full"),
      dot("ring", "bytes of the disks in its streams"), grouped ? null : make("li", {}, "pale: not in the chain of the later point")),
    make("details", { open: opened }, make("summary", {}, "As a table"),
      scrolling("All points", table(grouped ? ["From", "Points#", "Fulls#", "Stored#", "Of the disks#"] : ["Point", "Kind", "Stored#", "Of the disks#", "Backup"],
        data.bars.toReversed().map((bar) => make("tr", {}, make("td", { class: "time" }, when(grouped ? bar[0] : bar[7])),
          ...(grouped ? [make("td", { class: "number" }, exact(bar[2])), make("td", { class: "number" }, exact(bar[3]))]
            : [make("td", {}, bar[3] ? "full" : "incremental")]),
          number(bar[4]), number(bar[5]), grouped ? null : make("td", {}, make("code", {}, bar[6]))))))));
}

function barText(bar, links, grouped) {
  const lines = grouped ? [`${when(bar[0])} to ${when(bar[1])}`, `${count(bar[2], "point", "points")}, ${exact(bar[3])} full`]
    : [when(bar[7]), `${bar[3] ? "full" : "incremental"} ${short(bar[6])}${links.has(bar[6]) ? ", in the chain" : ""}`];
  return [...lines, `stored ${size(bar[4])} (${exact(bar[4])} bytes)`, `of the disks ${size(bar[5])} (${exact(bar[5])} bytes)`].join("\n");
}

function drawRate() {
  const disk = data.disks[state.disk], rates = disk.rates, known = rates.filter((rate) => rate[2] !== null);
  const head = make("div", { class: "head" }, make("h2", {}, `Change rate of ${disk.name || disk.id}`),
    make("span", { class: "muted" }, disk.average === null ? "" : `${size(disk.average)} a day on average`));
  if (!known.length) {
    rateCard.replaceChildren(head, make("p", { class: "muted" }, "The change rate is unknown: there is no incremental backup of this disk."));
    return;
  }
  const drawing = frame(rateCard, 170);
  const { x, bottom, width, height } = drawing;
  const most = Math.max(...known.map((rate) => rate[2]), 1);
  const step = 2 ** Math.ceil(Math.log2(most / 4)), top = Math.ceil(most / step) * step;
  const y = (rate) => bottom - rate / top * (bottom - MARGIN.top);
  const values = [];
  for (let value = 0; value <= top; value += step) values.push(value);
  const svg = draw("svg", { height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application", "aria-roledescription": "chart",
    "aria-label": `Change rate of ${disk.name}, ${known.length} bars. Arrow keys go from bar to bar.` });
  svg.append(...lines(drawing, values, y), ...ticks(drawing));
  known.forEach(([start, end, rate], n) => svg.append(draw("rect", { class: "rate", "data-rate": n, x: x(start) + 0.5,
    width: Math.max(1, x(end) - x(start) - 1), y: y(rate), height: Math.max(rate ? 1 : 0, bottom - y(rate)) })));
  svg.append(draw("line", { class: "mean", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(disk.average), y2: y(disk.average) }));
  const here = draw("rect", { class: "here", y: MARGIN.top, height: bottom - MARGIN.top, visibility: "hidden" });
  svg.append(here);
  const spans = known.map(([start, end]) => [x(start), Math.max(x(end), x(start) + 2)]);
  explorable(svg, {
    places: known.length,
    find: (across) => spans.findIndex(([start, end]) => across * width >= start && across * width < end),
    centre: (n) => [(spans[n][0] + spans[n][1]) / 2 / width, 0.4],
    show: (n) => {
      here.setAttribute("x", spans[n][0]);
      here.setAttribute("width", spans[n][1] - spans[n][0]);
      here.setAttribute("visibility", "visible");
      const [start, end, rate] = known[n];
      return `${when(start)} to ${when(end)}\n${size(rate)} a day (${exact(rate)} bytes)`;
    },
    clear: () => here.setAttribute("visibility", "hidden"),
    keys: (key, n) => ({ ArrowLeft: n < 0 ? 0 : n - 1, ArrowRight: n + 1, Home: 0, End: known.length - 1 })[key] ?? null,
  });
  rateCard.replaceChildren(head, svg, make("p", { class: "hint" },
    "Bytes a day: the size of each incremental divided by the time since the point it is based on. Gaps are before full backups. Dotted line: the average."));
}

// The page

// The screens of the points when a drill booted them.
function screens() {
  if (!data.screens.length) return null;
  return make("section", { class: "card", "aria-label": "Screens" }, make("h2", {}, "Booted"),
    make("div", { class: "screens" }, ...data.screens.map((screen) => make("figure", {},
      make("img", { src: `data:image/png;base64,${screen.picture}`, alt: screen.text }),
      make("figcaption", {}, screen.text)))));
}

page.append(...[headline(), figures(), disks(), mapCard, timeCard, rateCard, screens()].filter((part) => part !== null),
  make("footer", {}, `Made by pitr ${data.version} on ${data.made}, from the repository's catalog and indexes. ` + (data.exact
    ? "pitr read and compared the differences, in blocks of 4 KiB."
    : "Differences are ranges whose stored frames have other digests at the later point; pitr did not read the data.")));
const first = data.disks.findIndex((disk) => disk.picture && disk.data_bytes + disk.zero_bytes);
drawPoints();
choose(data.disks[state.disk] ? state.disk : Math.max(0, first));
dark.addEventListener("change", drawDisk);
let drawnAt = page.clientWidth;
addEventListener("resize", () => {
  if (page.clientWidth === drawnAt) return;
  drawnAt = page.clientWidth;
  drawPoints();
  drawRate();
});
document.documentElement.dataset.drawn = "yes";
})();
