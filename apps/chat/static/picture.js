// A picture at full resolution: zoom and pan, contrast, distances, boxes in pixels.
import { round } from "./dom.js";
import { Marks } from "./marks.js";
import { Pane } from "./pane.js";

export class PicturePane extends Pane {
  kind = "picture";

  constructor(host, about, which) {
    super(host, about, which);
    Object.assign(this, { line: null, look: [1, 1], layers: [] });
    this.image = document.createElement("img");
    this.image.alt = "the picture";
    this.image.draggable = false;
    this.image.className = "mf-picture";
    host.append(this.image);
    this.marks = new Marks(host);
    host.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    host.addEventListener("pointerdown", (event) => this.down(event));
    host.addEventListener("pointermove", (event) => this.move(event));
    host.addEventListener("pointerup", (event) => this.up(event));
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(host);
  }

  get hasOverlay() {
    return Boolean(this.box || this.layers.length);
  }

  get hasMask() {
    return this.layers.length > 0;
  }

  // Masks come as pictures of the same size, transparent where there is nothing.
  async overlays(masks) {
    if (JSON.stringify(masks) === JSON.stringify(this.masks)) return;
    this.masks = masks;
    this.layers.forEach((layer) => layer.remove());
    this.layers = masks.map((mask) => {
      const layer = document.createElement("img");
      Object.assign(layer, { alt: mask.labels.join(", "), draggable: false, className: "mf-picture mf-layer", src: mask.url });
      this.image.after(layer);
      return layer;
    });
    this.draw();
  }

  setOpacity(value) {
    this.opacity = value;
    this.draw();
  }

  async load() {
    this.image.src = this.about.url;
    await this.image.decode();
    this.fit();
    this.onmove(`${this.about.width} x ${this.about.height} pixels`);
  }

  close() {
    this.observer.disconnect();
  }

  fit() {
    const { clientWidth: w, clientHeight: h } = this.host;
    this.scale = Math.min(w / this.about.width, h / this.about.height);
    this.left = (w - this.about.width * this.scale) / 2;
    this.top = (h - this.about.height * this.scale) / 2;
    this.draw();
  }

  draw() {
    const { width, height } = this.about;
    const where = { width: `${width * this.scale}px`, height: `${height * this.scale}px`, left: `${this.left}px`, top: `${this.top}px` };
    for (const layer of this.layers) Object.assign(layer.style, { ...where, opacity: this.overlayShown ? this.opacity : 0 });
    Object.assign(this.image.style, {
      ...where,
      filter: `brightness(${this.look[0]}) contrast(${this.look[1]})`, imageRendering: this.scale > 3 ? "pixelated" : "auto",
    });
    const ratio = window.devicePixelRatio || 1;
    this.marks.begin(Math.round(this.host.clientWidth * ratio), Math.round(this.host.clientHeight * ratio));
    const x = (value) => (this.left + value * this.scale) * ratio;
    const y = (value) => (this.top + value * this.scale) * ratio;
    const [left, right, top, bottom] = this.about.letters ?? "";
    if (left) { // where the patient is, beside the slice as in a volume
      const [w, h] = [this.host.clientWidth * ratio, this.host.clientHeight * ratio];
      for (const [text, px, py] of [[left, 10, h / 2], [right, w - 24, h / 2], [top, w / 2, 22], [bottom, w / 2, h - 10]]) this.marks.words(text, px, py);
    }
    if (this.box && this.overlayShown) {
      const words = this.box.number ? `${this.box.label} · ${this.box.number}` : this.box.label;
      this.marks.box(x(this.box.low[0]), y(this.box.low[1]), x(this.box.high[0]), y(this.box.high[1]), words);
    }
    if (this.line) {
      const [a, b] = this.line;
      const mm = this.about.spacing;
      const length = Math.hypot((b[0] - a[0]) * (mm?.[0] ?? 1), (b[1] - a[1]) * (mm?.[1] ?? 1));
      this.marks.line(x(a[0]), y(a[1]), x(b[0]), y(b[1]), `${round(length)} ${mm ? "mm" : "px"}`);
    }
  }

  at(event) {
    const rect = this.host.getBoundingClientRect();
    return [(event.clientX - rect.left - this.left) / this.scale, (event.clientY - rect.top - this.top) / this.scale];
  }

  wheel(event) {
    event.preventDefault();
    const [px, py] = this.at(event);
    const factor = Math.exp(-event.deltaY / 400);
    const next = Math.max(0.02, Math.min(this.scale * factor, 40));
    this.left += px * (this.scale - next);
    this.top += py * (this.scale - next);
    this.scale = next;
    this.draw();
  }

  down(event) {
    this.from = [event.clientX, event.clientY, this.left, this.top, ...this.look];
    this.start = this.at(event);
    if (this.measuring) this.line = [this.start, this.start];
    this.host.setPointerCapture(event.pointerId);
  }

  move(event) {
    const [px, py] = this.at(event);
    if (px >= 0 && py >= 0 && px < this.about.width && py < this.about.height) {
      this.onmove(`column ${Math.floor(px)}  row ${Math.floor(py)}   ${this.about.width} x ${this.about.height} pixels   zoom ${round(this.scale * 100, 0)} %`);
    }
    if (!this.from) return;
    const dx = event.clientX - this.from[0];
    const dy = event.clientY - this.from[1];
    if (this.measuring) this.line[1] = [px, py];
    else if (this.marking) this.box = { label: "", ...this.span(event) };
    else if (this.contrasting) this.look = [Math.max(0.1, this.from[4] - dy / 200), Math.max(0.1, this.from[5] + dx / 200)];
    else [this.left, this.top] = [this.from[2] + dx, this.from[3] + dy];
    this.draw();
  }

  // A click is a place, a drag a box; both in pixels of the picture.
  up(event) {
    const marked = this.marking && this.from;
    const far = marked && Math.hypot(event.clientX - this.from[0], event.clientY - this.from[1]) > 5;
    const { low, high } = marked ? this.span(event) : {};
    this.from = null;
    if (marked) this.onmark({ which: this.which, box: far ? [...low, ...high] : null, point: far ? null : high });
  }

  span(event) {
    const size = [this.about.width - 0.01, this.about.height - 0.01];
    const ends = [this.start, this.at(event)].map((end) => end.map((value, i) => Math.max(0, Math.min(value, size[i]))));
    return { low: [0, 1].map((i) => Math.min(ends[0][i], ends[1][i])), high: [0, 1].map((i) => Math.max(ends[0][i], ends[1][i])) };
  }

  setMeasuring(on) {
    Object.assign(this, { measuring: on, contrasting: false, marking: false });
  }

  setContrasting(on) {
    Object.assign(this, { contrasting: on, measuring: false, marking: false });
  }

  setMarking(on) {
    Object.assign(this, { marking: on, measuring: false, contrasting: false });
  }

  setOverlayShown(on) {
    this.overlayShown = on;
    this.draw();
  }

  reset() {
    Object.assign(this, { line: null, look: [1, 1], measuring: false, contrasting: false, marking: false });
    this.fit();
  }

  async show(item) {
    this.box = item.low ? item : null;
    this.overlayShown = true;
    this.draw();
  }
}
