// A picture to zoom and pan, with the outlines of its nuclei drawn over it.

/* global OpenSeadragon */

// OpenSeadragon would write a style into the page, which the page's policy forbids; it looks for
// an element of this name first.
const written = document.createElementNS("", "style");
written.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(written);

export const COLOURS = { kept: "#ffd600", out: "#b9c4cc", only: "#ff5cc8", brushed: "#00e5ff", chosen: "#ffffff" };
// Nuclei smaller than this on the screen are dots.
const DOT_PX = 3;
const SLOW_MS = 12, MANY = 3000, REST_MS = 120;
const CASING = "rgba(0,0,0,.75)";

export class Viewer {
  #osd;
  #marks = document.createElement("canvas"); // of all nuclei
  #tops = document.createElement("canvas"); // of the chosen ones
  #drawn = null; // where the picture was when all were drawn
  #slow = false; // whether that takes long
  #resting = 0;
  #item = null;
  #smooth = true;
  #next = null; // of a picture that replaces the one of before

  /**
   * @param {HTMLElement} element that it fills.
   * @param {object} on what happens: hover(row, x, y), click(row), move(viewer).
   */
  constructor(element, on) {
    this.on = on;
    this.nuclei = null;
    this.outlines = true;
    this.hovered = -1;
    this.#osd = new OpenSeadragon.Viewer({
      element, drawer: "canvas", showNavigationControl: false, preload: false, autoResize: false,
      minZoomImageRatio: 0.8, maxZoomPixelRatio: 40, visibilityRatio: 0.3, animationTime: 0.4,
      springStiffness: 12, zoomPerScroll: 1.4, blendTime: 0, imageLoaderLimit: 8, maxImageCacheCount: 400,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsPen: { clickToZoom: false },
    });
    this.#marks.className = this.#tops.className = "marks";
    this.#osd.canvas.append(this.#marks, this.#tops);
    const canvas = this.#osd.canvas;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Picture: arrow keys pan, plus and minus zoom, 0 fits it in");
    new ResizeObserver(() => this.#resize()).observe(this.#osd.container);
    this.#osd.addHandler("update-viewport", () => this.#follow());
    this.#osd.addHandler("viewport-change", () => this.on.move(this));
    this.#osd.addHandler("animation", () => this.on.move(this));
    this.#osd.addHandler("canvas-click", ({ quick, position }) => {
      if (!quick || !this.nuclei) return;
      const row = this.#rowAt(position);
      if (row >= 0) this.on.click(row);
      this.#hover(row, position); // a finger has no other way to ask
    });
    element.addEventListener("pointermove", ({ clientX, clientY, pointerType }) => {
      if (pointerType === "touch" || !this.nuclei) return;
      const { left, top } = element.getBoundingClientRect();
      const position = new OpenSeadragon.Point(clientX - left, clientY - top);
      this.#hover(this.#rowAt(position), position);
    });
    element.addEventListener("pointerleave", () => this.#hover(-1));
  }

  /** Show a picture; the part that is looked at stays where one of the same size was before. */
  show(picture) {
    const before = this.#next ?? this.#item;
    const same = before && before.source.width === picture.width && before.source.height === picture.height;
    if (this.#next) this.#osd.world.removeItem(this.#next);
    this.#next = null;
    if (!same && this.#item) {
      this.#osd.world.removeItem(this.#item);
      this.#item = null;
    }
    return new Promise((resolve) => {
      this.#osd.addTiledImage({
        tileSource: picture.source(),
        success: ({ item }) => {
          if (!this.#item) {
            this.#item = item;
            this.#drawn = null;
            this.fit();
            return resolve();
          }
          this.#next = item;
          const swap = () => {
            if (this.#next !== item || !item.getFullyLoaded()) return;
            this.#osd.world.removeItem(this.#item);
            this.#item = item;
            this.#next = null;
            resolve();
          };
          item.addHandler("fully-loaded-change", swap);
          swap();
        },
      });
    });
  }

  /** Show nothing. */
  clear() {
    for (const item of [this.#item, this.#next]) if (item) this.#osd.world.removeItem(item);
    this.#item = this.#next = this.#drawn = null;
    this.redraw();
  }

  /** Draw again: something about the nuclei has changed. */
  redraw() {
    this.#draw();
    this.#drawChosen();
  }

  /** Show the whole picture. */
  fit() {
    this.#resize(); // the element may have got its size a moment ago
    this.#osd.viewport.goHome(true);
  }

  /** Fill the element, which has another size: a picture that was shown whole still is, others keep their scale. */
  #resize() {
    const { container, viewport } = this.#osd, { clientWidth, clientHeight } = container;
    const { x, y } = viewport.getContainerSize();
    if (!clientWidth || !clientHeight || (clientWidth === x && clientHeight === y)) return;
    const whole = Math.abs(viewport.getZoom() / viewport.getHomeZoom() - 1) < 0.01, hadSize = Boolean(x && y);
    viewport.resize(new OpenSeadragon.Point(clientWidth, clientHeight), hadSize);
    if (whole || !hadSize) viewport.goHome(true);
    this.#osd.forceRedraw();
  }

  zoom(times) { this.#osd.viewport.zoomBy(times).applyConstraints(); }

  /** Look at where another viewer looks. */
  follow(other) {
    const { viewport } = other.#osd;
    this.#osd.viewport.zoomTo(viewport.getZoom(true), null, true);
    this.#osd.viewport.panTo(viewport.getCenter(true), true);
  }

  /** Bring a nucleus into view, and close where it is small. */
  reach(row, closer) {
    const [x0, y0, x1, y1] = this.nuclei.boxes.subarray(4 * row, 4 * row + 4);
    const room = closer ? 3 * Math.max(x1 - x0, y1 - y0) : 0;
    const rectangle = this.#item.imageToViewportRectangle(x0 - room, y0 - room, x1 - x0 + 2 * room, y1 - y0 + 2 * room);
    if (closer) this.#osd.viewport.fitBounds(rectangle);
    else if (!this.#osd.viewport.getBounds().containsPoint(rectangle.getCenter())) this.#osd.viewport.panTo(rectangle.getCenter());
  }

  #rowAt(position) {
    const place = this.#item.viewerElementToImageCoordinates(position);
    return this.nuclei.at(place.x, place.y);
  }

  #hover(row, position) {
    if (row !== this.hovered) {
      this.hovered = row;
      this.#drawChosen();
    }
    this.on.hover(row, position?.x, position?.y, this);
  }

  /** Where the picture is, in pixels of the canvases. */
  #place() {
    const dense = window.devicePixelRatio;
    const corner = this.#item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const along = this.#item.imageToViewerElementCoordinates(new OpenSeadragon.Point(1, 0));
    return { dense, scale: (along.x - corner.x) * dense, left: corner.x * dense, top: corner.y * dense };
  }

  #follow() {
    if (!this.#item) return;
    const place = this.#place(), { dense, scale, left, top } = place;
    // Pixels are squares once they are seen, and smooth where several are one of the screen.
    if (this.#smooth !== (this.#smooth = scale < 2 * dense)) this.#osd.drawer.setImageSmoothingEnabled(this.#smooth);
    const { style, clientWidth, clientHeight } = this.#marks;
    const before = this.#drawn, resized = before?.width !== clientWidth || before?.height !== clientHeight;
    if (!resized && this.#slow && (before.scale !== scale || before.left !== left || before.top !== top)) {
      // Many outlines move as a picture, and are drawn once the view rests.
      const times = scale / before.scale;
      style.transform = `matrix(${times},0,0,${times},${(left - before.left * times) / dense},${(top - before.top * times) / dense})`;
      clearTimeout(this.#resting);
      this.#resting = setTimeout(() => this.#draw(), REST_MS);
    } else if (resized || before.scale !== scale || before.left !== left || before.top !== top) {
      this.#draw();
    }
    this.#drawChosen(place);
  }

  /** Draw all nuclei in view. */
  #draw() {
    clearTimeout(this.#resting);
    const started = performance.now(), context = cleared(this.#marks);
    this.#marks.style.transform = "";
    if (!this.#item) return;
    const place = this.#place(), { scale, left, top } = place, { width, height } = this.#marks;
    this.#drawn = { ...place, width: this.#marks.clientWidth, height: this.#marks.clientHeight };
    if (!this.nuclei || !this.outlines) return;
    const rows = this.nuclei.within(-left / scale, -top / scale, (width - left) / scale, (height - top) / scale);
    const groups = new Map();
    for (const row of rows) {
      const style = this.#style(row);
      if (groups.has(style)) groups.get(style).push(row);
      else groups.set(style, [row]);
    }
    for (const style of ["out", "kept", "only", "brushed"]) {
      if (groups.has(style)) this.#drawRows(context, style, groups.get(style), place);
    }
    this.#slow = performance.now() - started > SLOW_MS || rows.length > MANY;
  }

  /** Draw the nucleus under the pointer, and the selected one. */
  #drawChosen(place = this.#item && this.#place()) {
    const context = cleared(this.#tops);
    if (!this.#item || !this.nuclei || !this.outlines) return;
    const rows = [this.hovered, this.nuclei.selected].filter((row) => row >= 0 && row < this.nuclei.count);
    if (rows.length) this.#drawRows(context, "chosen", rows, place);
  }

  #style(row) {
    const { nuclei } = this;
    if (nuclei.discarded[row]) return "out";
    if (nuclei.brushed?.[row]) return "brushed";
    return nuclei.matched && !nuclei.matched[row] ? "only" : "kept";
  }

  #drawRows(context, style, rows, { scale, left, top, dense }) {
    const { nuclei } = this, path = new Path2D();
    const step = Math.max(1, Math.floor(dense / scale));
    for (const row of rows) {
      const [x0, y0, x1, y1] = nuclei.boxes.subarray(4 * row, 4 * row + 4);
      if (Math.max(x1 - x0, y1 - y0) * scale < DOT_PX * dense) {
        const side = 2 * dense / scale;
        path.rect((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side, side);
      } else nuclei.trace(path, row, step);
    }
    context.setTransform(scale, 0, 0, scale, left, top);
    context.lineJoin = "round";
    // Thin where nuclei are small, so that they are seen inside.
    const thin = Math.min(1, Math.max(0.5, 2 * scale / dense));
    const wide = (style === "kept" || style === "out" ? 1.5 : 2.5) * thin;
    context.setLineDash(style === "out" ? [4 * dense / scale, 4 * dense / scale] : []);
    if (style === "brushed") {
      context.fillStyle = "rgba(0,229,255,.3)";
      context.fill(path);
    }
    if (thin === 1) {
      context.lineWidth = (wide + 2) * dense / scale;
      context.strokeStyle = CASING;
      context.stroke(path);
    }
    context.lineWidth = wide * dense / scale;
    context.strokeStyle = COLOURS[style];
    context.stroke(path);
  }
}

/** The context of a canvas that is as large as it is seen, and empty. */
function cleared(canvas) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
