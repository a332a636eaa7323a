"use strict";
// The map of the products, in seven files that are one script: nothing is drawn unless something changed. Lengths on the
// screen are in CSS pixels, in the map in units of its radius. This file: what the page holds, and what was chosen.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const N = data.count;
const Numbers = data.integers === 16 ? Uint16Array : Uint32Array;

function unpack(text, Type) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Type(bytes.buffer);
}

const packedPlaces = unpack(data.points, Int16Array);
const place = Float32Array.from(packedPlaces, (value) => value / 32767); // x, y, z of each point in turn
const [department, truth, predicted, split, near, slot] =
  ["department", "truth", "predicted", "split", "near", "slots"].map((name) => unpack(data[name], Numbers));
const K = data.neighbours;
const neighboursOf = (i) => Array.from(near.subarray(i * K, (i + 1) * K));
const isWrong = (i) => truth[i] > 0 && predicted[i] > 0 && truth[i] !== predicted[i];
const titleOf = (i) => data.titles[i] || data.ids[i];
const pathOf = (i) => data.paths[truth[i]] || "No category";
const colourOf = (i) => data.departments[department[i]].colour;

/** The radius that all but a few stray products lie within. */
function radiusOfMost() {
  const radii = new Float32Array(N);
  for (let i = 0; i < N; i++) radii[i] = Math.hypot(place[3 * i], place[3 * i + 1], place[3 * i + 2]);
  return Math.max(0.05, radii.sort()[Math.floor(0.97 * (N - 1))]);
}
const EXTENT = radiusOfMost();

let wrongCount = 0;
for (let i = 0; i < N; i++) wrongCount += isWrong(i);

const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const narrow = matchMedia("(max-width: 720px)");
const HOME = { target: [0, 0, 0], distance: 2.3 * EXTENT, yaw: 0.35, pitch: 0.3 };
const NEAREST_VIEW = 0.02, FARTHEST_VIEW = 6;
const camera = { ...HOME, target: [...HOME.target] };
const shown = data.departments.map(() => true); // by department
let selected = -1, hovered = -1, hits = null; // hits: a Uint8 a point while something is searched, else null
let flight = null, drifting = !stillness.matches;

// How a point is drawn. A ringed one is misclassified.
const HIDDEN = 0, DIM = 1, PLAIN = 2, BRIGHT = 3, RINGED = 4;
const emphasis = new Uint8Array(N);
let visible = N;

function updateEmphasis() {
  const marked = new Set(selected >= 0 ? [selected, ...neighboursOf(selected)] : []);
  const markWrong = $("wrong").checked, others = marked.size || hits || markWrong ? DIM : PLAIN;
  visible = 0;
  for (let i = 0; i < N; i++) {
    if (!shown[department[i]]) { emphasis[i] = HIDDEN; continue; }
    visible += 1;
    if (markWrong && isWrong(i)) emphasis[i] = RINGED;
    else emphasis[i] = marked.has(i) || (hits && hits[i]) ? BRIGHT : others;
  }
  emphasisChanged = true;
  redraw();
}
