// The points: projected, ordered, picked, and drawn by WebGL 2.

const screenX = new Float32Array(N), screenY = new Float32Array(N), depthOf = new Float32Array(N);
const BUCKETS = 4096;
const bucketOf = new Uint16Array(N), starts = new Uint32Array(BUCKETS + 1), order = new Uint32Array(N);
let drawn = 0; // how many of `order` are in front of the eye

/** Project all visible points and order them back to front, by a counting sort of their depths. */
function arrange() {
  const [ex, ey, ez] = eye, [rx, ry, rz] = right, [ux, uy, uz] = up, [fx, fy, fz] = forward;
  const reach = Math.hypot(...eye) + 1.75, scale = (BUCKETS - 1) / reach;
  starts.fill(0);
  drawn = 0;
  for (let i = 0; i < N; i++) {
    const x = place[3 * i] - ex, y = place[3 * i + 1] - ey, z = place[3 * i + 2] - ez;
    const depth = x * fx + y * fy + z * fz;
    depthOf[i] = emphasis[i] === HIDDEN ? 0 : depth;
    if (depthOf[i] < NEAR) continue;
    screenX[i] = centre.x + ((x * rx + y * ry + z * rz) * lens) / depth;
    screenY[i] = centre.y - ((x * ux + y * uy + z * uz) * lens) / depth;
    const bucket = ((reach - depth) * scale) | 0;
    bucketOf[i] = bucket;
    starts[bucket + 1] += 1;
    drawn += 1;
  }
  for (let b = 0; b < BUCKETS; b++) starts[b + 1] += starts[b];
  for (let i = 0; i < N; i++) if (depthOf[i] >= NEAR) order[starts[bucketOf[i]]++] = i;
}

const pointRadius = 0.0062 * EXTENT * Math.min(2, Math.max(0.5, Math.cbrt(4000 / N))); // in the map
const SMALLEST = 1.1, LARGEST = 7.5; // on the screen
const radiusOnScreen = (depth) => Math.max(SMALLEST, Math.min(LARGEST, (pointRadius * lens) / depth));

/** The point at (x, y), or -1: a picture that is on top, else the nearest within a few pixels; of two equally near the
 * one in front. */
function pick(x, y, slack) {
  const badge = badges.findLast((b) => Math.hypot(b.x - x, b.y - y) <= b.radius);
  if (badge) return badge.i;
  let best = -1, least = Infinity;
  for (let i = 0; i < N; i++) {
    const dx = screenX[i] - x, dy = screenY[i] - y, depth = depthOf[i];
    if (depth < NEAR || dx > 30 || dx < -30 || dy > 30 || dy < -30) continue;
    const apart = Math.hypot(dx, dy), cost = apart + depth * 0.1 + (emphasis[i] === DIM ? 2 : 0);
    if (apart <= radiusOnScreen(depth) + slack && cost < least) { best = i; least = cost; }
  }
  return best;
}

const VERTEX = `#version 300 es
layout(location = 0) in vec3 place;
layout(location = 1) in vec3 colour;
layout(location = 2) in float emphasis;
uniform vec3 eye, right, up, forward;
uniform vec2 lens, shift;      // of the clip space, whose sides are 2 long
uniform vec3 size;             // pixels at depth 1, the least, the most
uniform float focus;           // depth of the camera's target
out vec3 tint;
out float strength, ringed;
const float SIZE[5] = float[](0.0, 0.85, 1.0, 1.3, 1.35);
const float STRENGTH[5] = float[](0.0, 0.2, 0.9, 1.0, 1.0);
void main() {
  vec3 seen = place - eye;
  vec3 at = vec3(dot(seen, right), dot(seen, up), dot(seen, forward));
  int kind = int(emphasis + 0.5);
  gl_Position = vec4(at.xy * lens + shift * at.z, 0.0, at.z);
  gl_PointSize = clamp(size.x / at.z, size.y, size.z) * SIZE[kind];
  float mist = clamp(0.55 * (at.z - focus) / (0.35 + 0.65 * focus), 0.0, 0.72);
  tint = mix(colour, vec3(0.20, 0.27, 0.52), mist);
  strength = STRENGTH[kind] * (1.0 - 0.55 * mist);
  ringed = float(kind == ${RINGED});
}`;

// A bright disc in a soft halo. The halo only adds light: haloes of neighbours flow together.
const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 tint;
in float strength, ringed;
out vec4 light;
void main() {
  float far = length(gl_PointCoord * 2.0 - 1.0);
  if (far > 1.0) discard;
  float disc = smoothstep(0.62, 0.46, far), halo = 0.5 * (1.0 - far) * (1.0 - far);
  vec3 colour = mix(tint, vec3(1.0), 0.35 * smoothstep(0.5, 0.0, far));
  float ring = ringed * smoothstep(0.16, 0.08, abs(far - 0.82));
  float alpha = max(max(disc, halo), ring);
  light = vec4(mix(colour, vec3(1.0, 0.36, 0.36), ring) * alpha, alpha * max(disc, max(ring, 0.25))) * strength;
}`;

const gl = $("points").getContext("webgl2", { antialias: false, depth: false });
let uniform = {}, emphasisBuffer, orderBuffer, emphasisChanged = true;

function compile(kind, source) {
  const shader = gl.createShader(kind);
  gl.shaderSource(shader, source);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(shader));
  return shader;
}

function attribute(number, values, parts, type, normalised, usage = gl.STATIC_DRAW) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, values, usage);
  gl.enableVertexAttribArray(number);
  gl.vertexAttribPointer(number, parts, type, normalised, 0, 0);
  return buffer;
}

function prepareWebGL() {
  const program = gl.createProgram();
  gl.attachShader(program, compile(gl.VERTEX_SHADER, VERTEX));
  gl.attachShader(program, compile(gl.FRAGMENT_SHADER, FRAGMENT));
  gl.linkProgram(program);
  gl.useProgram(program);
  for (const name of ["eye", "right", "up", "forward", "lens", "shift", "size", "focus"])
    uniform[name] = gl.getUniformLocation(program, name);
  const shades = data.departments.map(({ colour }) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  const colours = new Uint8Array(3 * N);
  for (let i = 0; i < N; i++) colours.set(shades[department[i]], 3 * i);
  attribute(0, packedPlaces, 3, gl.SHORT, true);
  attribute(1, colours, 3, gl.UNSIGNED_BYTE, true);
  emphasisBuffer = attribute(2, emphasis, 1, gl.UNSIGNED_BYTE, false, gl.DYNAMIC_DRAW);
  orderBuffer = gl.createBuffer();
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, orderBuffer);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order.byteLength, gl.STREAM_DRAW);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  gl.clearColor(0, 0, 0, 0);
}

function drawPoints() {
  if (emphasisChanged) {
    gl.bindBuffer(gl.ARRAY_BUFFER, emphasisBuffer);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, emphasis);
    emphasisChanged = false;
  }
  gl.bufferSubData(gl.ELEMENT_ARRAY_BUFFER, 0, order, 0, drawn);
  for (const [name, value] of Object.entries({ eye, right, up, forward })) gl.uniform3fv(uniform[name], value);
  gl.uniform2f(uniform.lens, (2 * lens) / width, (2 * lens) / height);
  gl.uniform2f(uniform.shift, (2 * centre.x) / width - 1, 1 - (2 * centre.y) / height);
  const haloed = (2 * ratio) / 0.54; // from the radius of the disc, in CSS pixels, to the side of its sprite
  gl.uniform3f(uniform.size, pointRadius * lens * haloed, SMALLEST * haloed, LARGEST * haloed);
  gl.uniform1f(uniform.focus, camera.distance);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.drawElements(gl.POINTS, drawn, gl.UNSIGNED_INT, 0);
}
