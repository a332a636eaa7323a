// Above the points, on a 2-D canvas: pictures of the selected product and its neighbours, and the category stars.

const pen = $("sky").getContext("2d");
const atlas = $("atlas"), columns = () => Math.max(1, Math.round(atlas.naturalWidth / data.tile));

function drawPicture(to, i, x, y, side) {
  const at = slot[i] - 1, tile = data.tile;
  to.drawImage(atlas, (at % columns()) * tile, Math.floor(at / columns()) * tile, tile, tile, x, y, side, side);
}

function ring(x, y, radius, colour, line = 1.5) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.lineWidth = line;
  pen.strokeStyle = colour;
  pen.stroke();
}

let badges = []; // the pictures of the selected product and its neighbours: {i, x, y, radius}, the last on top

/** The selected product and its neighbours as pictures, moved apart where they would cover each other. */
function placeBadges() {
  const seen = selected < 0 ? [] : [selected, ...neighboursOf(selected)].filter((i) => depthOf[i] >= NEAR);
  badges = seen.map((i) => ({ i, x: screenX[i], y: screenY[i], radius: i === selected ? 25 : 17 }));
  for (let round = 0; round < 40; round++)
    for (const a of badges)
      for (const b of badges) {
        const dx = b.x - a.x, dy = b.y - a.y, apart = Math.hypot(dx, dy), wanted = a.radius + b.radius + 4;
        if (a === b || apart >= wanted) continue;
        const push = (wanted - apart) / (apart || 1), share = a.i === selected ? 1 : b.i === selected ? 0 : 0.5;
        b.x += (apart ? dx : 1) * push * share;
        b.y += dy * push * share;
        a.x -= (apart ? dx : 1) * push * (1 - share);
        a.y -= dy * push * (1 - share);
      }
  badges.reverse();
}

function drawSelection() {
  placeBadges();
  const own = badges.find(({ i }) => i === selected);
  for (const { i, x, y } of badges) {
    if (!own || i === selected) continue;
    const line = pen.createLinearGradient(own.x, own.y, x, y);
    line.addColorStop(0, "#ffffffe0");
    line.addColorStop(1, colourOf(i));
    pen.strokeStyle = line;
    pen.lineWidth = 1.4;
    pen.beginPath();
    pen.moveTo(own.x, own.y);
    pen.lineTo(x, y);
    pen.stroke();
  }
  badges.forEach(drawBadge);
  const badge = badges.find(({ i }) => i === hovered);
  if (badge) ring(badge.x, badge.y, badge.radius + 4, "#ffffff", 2);
  else if (hovered >= 0 && depthOf[hovered] >= NEAR)
    ring(screenX[hovered], screenY[hovered], radiusOnScreen(depthOf[hovered]) + 4, "#ffffff");
}

function drawBadge({ i, x, y, radius }) {
  const framed = i === selected ? "#ffffff" : isWrong(i) ? "#ff6b6b" : colourOf(i);
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = "#0b1128";
  pen.fill();
  if (slot[i] && atlas.complete) {
    pen.save();
    pen.clip();
    drawPicture(pen, i, x - radius, y - radius, 2 * radius);
    pen.restore();
  } else {
    pen.beginPath();
    pen.arc(x, y, radius * 0.4, 0, 2 * Math.PI);
    pen.fillStyle = colourOf(i);
    pen.fill();
  }
  ring(x, y, radius, framed, i === selected ? 3 : 2);
}

const FONTS = { 1: "650 13px system-ui, sans-serif", 2: "500 11.5px system-ui, sans-serif" };
for (const star of data.stars) {
  pen.font = FONTS[star.level];
  star.width = pen.measureText(star.name).width;
}
let labels = []; // where the labels stand, for clicks: {left, top, right, bottom, star}

/** A glint and a name at each category's centroid, the largest first; where there is no room, none. A click on the name
 * flies there. */
function drawStars() {
  labels = [];
  for (const star of data.stars) {
    if (!$(`level-${star.level}`).checked || !shown[star.department]) continue;
    const { x, y, depth } = see(star.x, star.y, star.z);
    if (depth < 0.08 || x < -80 || x > width + 80 || y < 0 || y > height) continue;
    const box = { left: x - star.width / 2 - 5, top: y + 5, right: x + star.width / 2 + 5, bottom: y + 24, star };
    if (labels.some((b) => box.left < b.right && box.right > b.left && box.top < b.bottom && box.bottom > b.top)) continue;
    labels.push(box);
    pen.globalAlpha = Math.max(0.5, Math.min(1, 1.6 - (0.6 * depth) / camera.distance)) * (selected >= 0 ? 0.5 : 1);
    drawGlint(x, y, star.level === 1 ? 9 : 6, data.departments[star.department].colour);
    pen.font = FONTS[star.level];
    pen.lineWidth = 4;
    pen.strokeStyle = "#070b18e8";
    pen.strokeText(star.name, x, y + 15);
    pen.fillStyle = star.level === 1 ? "#ffffff" : "#d3dbf0";
    pen.fillText(star.name, x, y + 15);
  }
  pen.globalAlpha = 1;
}

const starAt = (x, y) =>
  labels.find((box) => x > box.left && x < box.right && y > box.top && y < box.bottom)?.star;

function drawGlint(x, y, size, colour) {
  const waist = size * 0.16;
  pen.beginPath();
  pen.moveTo(x, y - size);
  for (const [dx, dy, to, down] of [[1, -1, 1, 0], [1, 1, 0, 1], [-1, 1, -1, 0], [-1, -1, 0, -1]])
    pen.quadraticCurveTo(x + dx * waist, y + dy * waist, x + to * size, y + down * size);
  pen.fillStyle = "#ffffff";
  pen.shadowColor = colour;
  pen.shadowBlur = 8;
  pen.fill();
  pen.shadowBlur = 0;
}
