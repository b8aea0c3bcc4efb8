// Reads GeoJSON into arrays, and matches two results of one frame.

const held = new Map();

onmessage = ({ data }) => {
  if (data.geojson) {
    const nuclei = read(new TextDecoder().decode(data.geojson));
    held.set(data.id, nuclei);
    postMessage({ id: data.id, ...nuclei });
  } else if (data.match) {
    const [a, b] = data.match.map((id) => held.get(id));
    postMessage({ id: data.id, ...matched(a, b) });
  } else {
    held.delete(data.forget);
  }
};

/**
 * Columns, one row for each nucleus: its label, its box, where its rings begin, features by name.
 * Points are x, y of pixel corners; ring r is points[rings[r]] to points[rings[r + 1]], and nucleus
 * i has the rings parts[i] to parts[i + 1].
 */
function read(text) {
  const { features, warnings, quality } = JSON.parse(text);
  const count = features.length;
  const polygons = features.map(({ geometry }) =>
    geometry.type === "Polygon" ? geometry.coordinates : geometry.coordinates.flat());
  let nPoints = 0, nRings = 0;
  for (const rings of polygons) for (const ring of rings) { nRings++; nPoints += ring.length - 1; }
  const points = new Int32Array(2 * nPoints), rings = new Uint32Array(nRings + 1);
  const parts = new Uint32Array(count + 1), boxes = new Int32Array(4 * count), labels = new Uint32Array(count);
  let point = 0, ring = 0;
  polygons.forEach((of, row) => {
    let x0 = Infinity, y0 = Infinity, x1 = -Infinity, y1 = -Infinity;
    for (const line of of) {
      for (let at = 0; at < line.length - 1; at++) { // the last point is the first
        const [x, y] = line[at];
        points[2 * point] = x;
        points[2 * point++ + 1] = y;
        x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y);
      }
      rings[++ring] = point;
    }
    parts[row + 1] = ring;
    boxes.set([x0, y0, x1, y1], 4 * row);
    labels[row] = Number(features[row].properties.name.split(" ").at(-1));
  });
  const names = new Set(features.flatMap(({ properties }) => Object.keys(properties.measurements)));
  const columns = {};
  for (const name of names) {
    columns[name] = Float64Array.from(features, ({ properties }) => properties.measurements[name] ?? NaN);
  }
  return { count, labels, points, rings, parts, boxes, columns, warnings, quality };
}

/** The pixels of a nucleus in its box: each vertical edge turns all to its right. */
function mask(nuclei, row) {
  const [x0, y0, x1, y1] = nuclei.boxes.subarray(4 * row, 4 * row + 4);
  const width = x1 - x0, inside = new Uint8Array(width * (y1 - y0));
  for (let ring = nuclei.parts[row]; ring < nuclei.parts[row + 1]; ring++) {
    const first = nuclei.rings[ring], end = nuclei.rings[ring + 1];
    for (let at = first; at < end; at++) {
      const next = at + 1 < end ? at + 1 : first;
      const x = nuclei.points[2 * at];
      if (x !== nuclei.points[2 * next] || x === x1) continue;
      const a = nuclei.points[2 * at + 1], b = nuclei.points[2 * next + 1];
      for (let y = Math.min(a, b); y < Math.max(a, b); y++) inside[(y - y0) * width + x - x0] ^= 1;
    }
  }
  let area = 0;
  for (let at = 0; at < inside.length; at++) {
    if (at % width) inside[at] ^= inside[at - 1];
    area += inside[at];
  }
  return { inside, area, x0, y0, x1, y1, width };
}

function overlap(a, b) {
  const x0 = Math.max(a.x0, b.x0), x1 = Math.min(a.x1, b.x1);
  let pixels = 0;
  for (let y = Math.max(a.y0, b.y0); y < Math.min(a.y1, b.y1); y++) {
    for (let x = x0; x < x1; x++) {
      pixels += a.inside[(y - a.y0) * a.width + x - a.x0] & b.inside[(y - b.y0) * b.width + x - b.x0];
    }
  }
  return pixels;
}

/** Whether each nucleus has one in the other result with an IoU above one half: at most one has. */
function matched(a, b) {
  const inA = new Uint8Array(a.count), inB = new Uint8Array(b.count);
  const side = 128, cells = new Map(), masks = new Map();
  const each = (nuclei, row, use) => {
    const [x0, y0, x1, y1] = nuclei.boxes.subarray(4 * row, 4 * row + 4);
    for (let y = Math.floor(y0 / side); y * side < y1; y++)
      for (let x = Math.floor(x0 / side); x * side < x1; x++) use(y * 65536 + x);
  };
  for (let row = 0; row < b.count; row++) {
    each(b, row, (cell) => { if (cells.has(cell)) cells.get(cell).push(row); else cells.set(cell, [row]); });
  }
  for (let row = 0; row < a.count; row++) {
    const near = new Set();
    each(a, row, (cell) => { for (const other of cells.get(cell) ?? []) near.add(other); });
    const own = mask(a, row);
    for (const other of near) {
      if (inB[other]) continue;
      if (!masks.has(other)) masks.set(other, mask(b, other));
      const its = masks.get(other), both = overlap(own, its);
      if (2 * both > own.area + its.area - both) {
        inA[row] = inB[other] = 1;
        masks.delete(other);
        break;
      }
    }
  }
  return { a: inA, b: inB };
}
