// Frames, their statistics, and the start.

const KEPT = 120;
const scriptMs = new Float64Array(KEPT), gapMs = new Float64Array(KEPT);
let frames = 0, asked = false, last = 0, spinning = 0, spun = null;

function redraw() {
  if (!asked) requestAnimationFrame(frame);
  asked = true;
}

function frame(now) {
  const began = performance.now(), passed = Math.min(50, now - last);
  asked = false;
  gapMs[frames % KEPT] = now - last;
  last = now;
  if (spinning) camera.yaw += 0.01;
  moveCamera(now, passed);
  const goal = freeMiddle(), pace = stillness.matches || !frames ? 1 : Math.min(1, passed / 120);
  const settled = Math.hypot(goal.x - centre.x, goal.y - centre.y) < 0.5;
  centre.x += (goal.x - centre.x) * (settled ? 1 : pace);
  centre.y += (goal.y - centre.y) * (settled ? 1 : pace);
  updateAxes();
  arrange();
  drawPoints();
  pen.clearRect(0, 0, width, height);
  drawStars();
  drawSelection();
  if (!$("stats").hidden) showStatistics();
  scriptMs[frames++ % KEPT] = performance.now() - began;
  if (spinning && --spinning === 0) spun();
  if (drifting || flight || spinning || !settled) redraw();
}

/** Over the last 120 frames, in milliseconds: the script's time in one (median, p95), and from one to the next (gap). */
function statistics() {
  const count = Math.min(frames, KEPT), sorted = (values) => values.slice(0, count).sort();
  const at = (values, share) => values[Math.min(count - 1, Math.floor(share * count))];
  const script = sorted(scriptMs);
  return { count, median: at(script, 0.5), p95: at(script, 0.95), gap: at(sorted(gapMs), 0.5) };
}

function showStatistics() {
  const { count, median, p95, gap } = statistics();
  $("stats").textContent = count ? `script ${median.toFixed(2)} ms a frame, p95 ${p95.toFixed(2)} ms\n` +
    `frames ${gap.toFixed(1)} ms apart · ${drawn.toLocaleString("en")} points` : "";
}

function resize() {
  [width, height, ratio] = [innerWidth, innerHeight, Math.min(2, devicePixelRatio || 1)];
  for (const canvas of [$("points"), $("sky")]) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  lens = Math.min(width * 1.3, height * 1.15) / 2 / OPENING;
  if (gl) gl.viewport(0, 0, $("points").width, $("points").height);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  [pen.textAlign, pen.textBaseline, pen.lineJoin] = ["center", "middle", "round"];
  redraw();
}

function start() {
  if (!gl) { $("sorry").hidden = false; return; }
  $("points").addEventListener("webglcontextlost", (event) => event.preventDefault());
  $("points").addEventListener("webglcontextrestored", () => { prepareWebGL(); resize(); });
  buildPanel();
  prepareWebGL();
  $("stats").hidden = location.hash !== "#stats";
  updateEmphasis();
  resize();
  listen();
  if (data.tile) atlas.decode().then(redraw);
  requestAnimationFrame(() => { constellation.loadedMs = performance.now(); });
}

/** For tests and measurements. */
const constellation = {
  size: N,
  loadedMs: null,
  get selected() { return selected; },
  get hovered() { return hovered; },
  get visible() { return visible; },
  /** A promise that there is nothing left to draw, unless the map drifts. */
  settled: () => new Promise((resolve) => {
    const look = () => (asked && !drifting ? setTimeout(look, 10) : resolve());
    look();
  }),
  project: (i) => { updateAxes(); const { x, y, depth } = see(...placeOf(i)); return { x, y, depth }; },
  emphasis: (i) => ["hidden", "dim", "plain", "bright", "ringed"][emphasis[i]],
  neighbours: neighboursOf,
  camera: () => ({ ...camera, target: [...camera.target] }),
  select, reset, statistics,
  /** Turn the map for that many frames; a promise of their statistics. */
  spin: (count) => new Promise((resolve) => {
    [spinning, frames, drifting, spun] = [count, 0, false, () => resolve(statistics())];
    redraw();
  }),
};
window.constellation = constellation;
start();
