// Mouse, touch and keys.

function listen() {
  const sky = $("sky"), held = new Map(); // pointers that are down: {x, y}
  let moved = 0, several = false;
  const middle = () => {
    const [a, b] = [...held.values()];
    return b ? { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) } : { ...a, apart: 0 };
  };
  sky.addEventListener("pointerdown", (event) => {
    sky.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (held.size === 1) [moved, several] = [0, false];
    else several = true;
    drifting = false;
  });
  sky.addEventListener("pointermove", (event) => {
    const { clientX: x, clientY: y } = event, pointer = held.get(event.pointerId);
    drifting = false;
    if (!pointer) {
      const star = starAt(x, y);
      hover(star || event.pointerType === "touch" ? -1 : pick(x, y, 3), x, y);
      return sky.classList.toggle("on-star", Boolean(star) || hovered >= 0);
    }
    const before = middle();
    Object.assign(pointer, { x, y });
    const now = middle(), [dx, dy] = [now.x - before.x, now.y - before.y];
    moved += Math.hypot(dx, dy);
    if (moved < 4 && !several) return;
    hover(-1);
    sky.classList.add("turning");
    if (several || event.shiftKey || event.buttons & 6) pan(dx, dy);
    else turn(dx * 0.006, dy * 0.006);
    if (before.apart && now.apart) zoom(before.apart / now.apart, now.x, now.y);
    touched();
  });
  const release = (event) => {
    const { clientX: x, clientY: y } = event;
    const tapped = event.type === "pointerup" && held.has(event.pointerId) && moved < 4 && !several;
    held.delete(event.pointerId);
    sky.classList.remove("turning");
    if (tapped) tap(x, y, event.pointerType === "touch" ? 14 : 3);
  };
  sky.addEventListener("pointerup", release);
  sky.addEventListener("pointercancel", release);
  sky.addEventListener("pointerleave", () => hover(-1));
  sky.addEventListener("contextmenu", (event) => event.preventDefault());
  sky.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1, speed = event.ctrlKey ? 0.01 : 0.0015;
    zoom(Math.exp(Math.max(-300, Math.min(300, event.deltaY * lines)) * speed), event.clientX, event.clientY);
    touched();
  }, { passive: false });
  sky.addEventListener("keydown", steer);
  addEventListener("keydown", shortcut);
  addEventListener("resize", resize);
}

function tap(x, y, slack) {
  const star = starAt(x, y), i = star ? -1 : pick(x, y, slack);
  if (star) fly([star.x, star.y, star.z], EXTENT * (star.level === 1 ? 1.1 : 0.55));
  else if (i >= 0 || selected >= 0) select(i);
}

/** Keys of the map itself, while it has the focus. */
function steer(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (step && event.shiftKey) pan(-40 * step[0], -40 * step[1]);
  else if (step) turn(0.08 * step[0], 0.08 * step[1]);
  else if (event.key === "+" || event.key === "=") zoom(0.85);
  else if (event.key === "-") zoom(1 / 0.85);
  else if (event.key === "Enter") return select(pick(centre.x, centre.y, 30));
  else return;
  event.preventDefault();
  touched();
}

/** Keys that work anywhere but in a text field. */
function shortcut(event) {
  if (event.key === "Escape") {
    $("search").value = "";
    search();
    return select(-1);
  }
  if (event.target === $("search") || event.ctrlKey || event.metaKey || event.altKey) return;
  const toggle = { m: "wrong", l: "level-2" }[event.key.toLowerCase()];
  if (toggle) $(toggle).click();
  else if (event.key === "/") $("search").focus();
  else if (event.key.toLowerCase() === "r") reset();
  else if (event.key.toLowerCase() === "s") $("stats").hidden = !$("stats").hidden;
  else return;
  event.preventDefault();
  redraw();
}
