// Where the map is looked at from, and flights.

const OPENING = Math.tan((25 * Math.PI) / 180); // of half the shorter side of the window
const NEAR = 0.01;
let width = 1, height = 1, ratio = 1, lens = 1; // lens: pixels of a length of 1 at a depth of 1
const centre = { x: 0, y: 0 }; // where the target is seen: the middle of what the panels leave free
let eye, right, up, forward;

function updateAxes() {
  const { yaw, pitch, distance, target } = camera;
  const [sy, cy, sp, cp] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
  right = [cy, 0, -sy];
  up = [-sp * sy, cp, -sp * cy];
  forward = [-cp * sy, -sp, -cp * cy];
  eye = target.map((value, axis) => value - forward[axis] * distance);
}

/** Where a point of the map is seen; `depth` is its distance along the line of sight. */
function see(x, y, z) {
  const [dx, dy, dz] = [x - eye[0], y - eye[1], z - eye[2]];
  const depth = dx * forward[0] + dy * forward[1] + dz * forward[2];
  const scale = lens / depth;
  return {
    x: centre.x + (dx * right[0] + dy * right[1] + dz * right[2]) * scale,
    y: centre.y - (dx * up[0] + dy * up[1] + dz * up[2]) * scale,
    depth,
  };
}

const placeOf = (i) => [place[3 * i], place[3 * i + 1], place[3 * i + 2]];

function freeMiddle() {
  const panel = $("panel").getBoundingClientRect(), chosen = $("chosen").getBoundingClientRect(); // empty while hidden
  if (narrow.matches) return { x: width / 2, y: ($("search").getBoundingClientRect().bottom + height - chosen.height) / 2 };
  return { x: (panel.right + width - chosen.width) / 2, y: height / 2 };
}

/** Fly to a place of the map; at once for those who asked for less motion. */
function fly(target, distance, turn = {}) {
  drifting = false;
  const from = { ...camera, target: [...camera.target] }, to = { ...from, ...turn, target, distance };
  const length = Math.hypot(...target.map((value, axis) => value - from.target[axis]));
  flight = { from, to, hop: Math.min(0.6, length / (from.distance + distance)), began: performance.now() };
  if (stillness.matches) flight.began = -Infinity;
  redraw();
}

const FLIGHT_MS = 1100;

function moveCamera(now, passed) {
  if (drifting) camera.yaw += passed * 0.00006;
  if (!flight) return;
  const time = Math.min(1, (now - flight.began) / FLIGHT_MS), t = time * time * time * (time * (6 * time - 15) + 10);
  const { from, to, hop } = flight, mix = (a, b) => a + (b - a) * t;
  camera.target = from.target.map((value, axis) => mix(value, to.target[axis]));
  camera.distance = Math.exp(mix(Math.log(from.distance), Math.log(to.distance))) * (1 + hop * Math.sin(Math.PI * t));
  camera.yaw = mix(from.yaw, to.yaw);
  camera.pitch = mix(from.pitch, to.pitch);
  if (time === 1) flight = null;
}

const turn = (dx, dy) => {
  camera.yaw -= dx;
  camera.pitch = Math.max(-1.55, Math.min(1.55, camera.pitch + dy));
};
const pan = (dx, dy) => { // by pixels
  const unit = camera.distance / lens;
  camera.target = camera.target.map((value, axis) => value - (dx * right[axis] - dy * up[axis]) * unit);
};
/** Come nearer by a factor below 1, or go away; what is under (x, y) stays there. */
const zoom = (factor, x = centre.x, y = centre.y) => {
  const distance = Math.max(NEAREST_VIEW, Math.min(FARTHEST_VIEW, camera.distance * factor));
  const share = 1 - distance / camera.distance;
  pan(-(x - centre.x) * share, -(y - centre.y) * share);
  camera.distance = distance;
};
const touched = () => { drifting = false; flight = null; redraw(); };
