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
const CASING = "rgba(0,0,0,.75)";

export class Viewer {
  #osd;
  #marks = document.createElement("canvas");
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
      element, drawer: "canvas", showNavigationControl: false, preload: false,
      minZoomImageRatio: 0.8, maxZoomPixelRatio: 40, visibilityRatio: 0.3, animationTime: 0.4,
      springStiffness: 12, zoomPerScroll: 1.4, blendTime: 0, imageLoaderLimit: 8, maxImageCacheCount: 400,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsPen: { clickToZoom: false },
    });
    this.#marks.className = "marks";
    this.#osd.canvas.append(this.#marks);
    const canvas = this.#osd.canvas;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Picture: arrow keys pan, plus and minus zoom, 0 fits it in");
    this.#osd.addHandler("update-viewport", () => this.#draw());
    this.#osd.addHandler("viewport-change", () => this.on.move(this));
    this.#osd.addHandler("animation", () => this.on.move(this));
    this.#osd.addHandler("canvas-click", ({ quick, position }) => {
      if (!quick || !this.nuclei) return;
      const row = this.#rowAt(position);
      if (row >= 0) this.on.click(row);
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

  /** Draw again: something about the nuclei has changed. */
  redraw() { this.#osd.forceRedraw(); }

  /** Show the whole picture. */
  fit() {
    // The element may have got its size a moment ago.
    const { clientWidth, clientHeight } = this.#osd.container;
    this.#osd.viewport.resize(new OpenSeadragon.Point(clientWidth, clientHeight), false);
    this.#osd.viewport.goHome(true);
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
      this.redraw();
    }
    this.on.hover(row, position?.x, position?.y, this);
  }

  #draw() {
    const canvas = this.#marks, dense = window.devicePixelRatio;
    const width = Math.round(canvas.clientWidth * dense), height = Math.round(canvas.clientHeight * dense);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.#item) return;
    const corner = this.#item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const along = this.#item.imageToViewerElementCoordinates(new OpenSeadragon.Point(1, 0));
    const scale = (along.x - corner.x) * dense, left = corner.x * dense, top = corner.y * dense;
    // Pixels are squares once they are seen, and smooth where several are one of the screen.
    if (this.#smooth !== (this.#smooth = scale < 2 * dense)) this.#osd.drawer.setImageSmoothingEnabled(this.#smooth);
    if (!this.nuclei || !this.outlines) return;
    const rows = this.nuclei.within(-left / scale, -top / scale, (width - left) / scale, (height - top) / scale);
    const groups = new Map();
    for (const row of rows) {
      const style = this.#style(row);
      if (groups.has(style)) groups.get(style).push(row);
      else groups.set(style, [row]);
    }
    const draw = (style) => groups.has(style) && this.#drawRows(context, style, groups.get(style), scale, left, top, dense);
    ["out", "kept", "only", "brushed", "chosen"].forEach(draw);
  }

  #style(row) {
    const { nuclei } = this;
    if (row === this.hovered || row === nuclei.selected) return "chosen";
    if (nuclei.discarded[row]) return "out";
    if (nuclei.brushed?.[row]) return "brushed";
    return nuclei.matched && !nuclei.matched[row] ? "only" : "kept";
  }

  #drawRows(context, style, rows, scale, left, top, dense) {
    const { nuclei } = this, path = new Path2D();
    let dots = true;
    const step = Math.max(1, Math.floor(0.5 / scale));
    for (const row of rows) {
      const [x0, y0, x1, y1] = nuclei.boxes.subarray(4 * row, 4 * row + 4);
      if (Math.max(x1 - x0, y1 - y0) * scale < DOT_PX * dense) {
        const side = 2 * dense / scale;
        path.rect((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side, side);
      } else {
        dots = false;
        nuclei.trace(path, row, step);
      }
    }
    context.setTransform(scale, 0, 0, scale, left, top);
    context.lineJoin = "round";
    const wide = style === "chosen" || style === "only" || style === "brushed" ? 2.5 : 1.5;
    context.setLineDash(style === "out" ? [4 * dense / scale, 4 * dense / scale] : []);
    if (style === "brushed") {
      context.fillStyle = "rgba(0,229,255,.3)";
      context.fill(path);
    }
    if (!dots) {
      context.lineWidth = (wide + 2) * dense / scale;
      context.strokeStyle = CASING;
      context.stroke(path);
    }
    context.lineWidth = wide * dense / scale;
    context.strokeStyle = COLOURS[style];
    context.stroke(path);
  }
}
