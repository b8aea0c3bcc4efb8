// The pixels of a frame as the gateway would segment them, cut into tiles by a worker.

/* global OpenSeadragon */

const TILE = 512;

export class Picture {
  #worker = new Worker("/web/picture-worker.js");
  #waiting = new Map();
  #asked = 0;

  /** Read the answer of /v1/frame: a length, a description in JSON, pixels. */
  static async of(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const about = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const Pixels = about.dtype === "uint16" ? Uint16Array : Uint8Array;
    const picture = new Picture();
    await picture.#hold(about, new Pixels(buffer, 4 + length));
    return picture;
  }

  async #hold(about, pixels) {
    this.about = about;
    this.width = about.width_px;
    this.height = about.height_px;
    const { offset, step } = about.scale;
    const { lo, hi } = about.intensity_range;
    this.auto = [(lo - offset) / step, (hi - offset) / step]; // in stored pixels
    this.levels = await new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }) => resolve(data.levels);
      this.#worker.onerror = () => reject(new Error("the picture is too large for this browser"));
      const { width, height } = this;
      this.#worker.postMessage({ pixels, width, height, channels: about.channels, size: TILE }, [pixels.buffer]);
    });
    this.#worker.onmessage = ({ data }) => {
      const finish = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      finish(data);
    };
    this.show(this.auto);
  }

  /** The largest value that its pixels may have. */
  get white() { return this.about.dtype === "uint16" ? 65535 : 255; }

  /** The value of the file that stands for a stored pixel. */
  value(pixel) { return this.about.scale.offset + this.about.scale.step * pixel; }

  /** Show these stored pixels as black and white, in tiles that are made from now on. */
  show(range) {
    this.range = range;
    this.#worker.postMessage({ range });
  }

  /** Tiles for OpenSeadragon, with the brightness of now. */
  source() {
    const version = this.#asked++;
    const highest = Math.ceil(Math.log2(Math.max(this.width, this.height, 2)));
    const source = new OpenSeadragon.TileSource({
      width: this.width, height: this.height, tileSize: TILE, maxLevel: highest, minLevel: highest - this.levels + 1,
    });
    source.getTileUrl = (level, x, y) => `tile:${version}/${level}/${x}/${y}`;
    source.hasTransparency = () => false;
    source.downloadTileAbort = () => {};
    source.downloadTileStart = (job) => {
      const { level, x, y } = job.tile;
      const id = this.#asked++;
      this.#waiting.set(id, ({ rgba, width, height }) => {
        const canvas = document.createElement("canvas");
        canvas.width = width;
        canvas.height = height;
        const context = canvas.getContext("2d");
        context.putImageData(new ImageData(rgba, width, height), 0, 0);
        job.finish(context, null, "context2d");
      });
      this.#worker.postMessage({ id, level: highest - level, x, y, size: TILE });
    };
    return source;
  }

  close() { this.#worker.terminate(); }
}
