// A volume in NiiVue: planes, 3D, windows, crosshair in mm and HU, masks, boxes in the patient's space.
import { DRAG_MODE, SLICE_TYPE } from "./niivue/index.js";
import { take } from "./canvas.js";
import { round } from "./dom.js";
import { Marks } from "./marks.js";
import { Pane } from "./pane.js";

// HU shown as black and white: [level - width / 2, level + width / 2]
export const WINDOWS = { "soft tissue": [-160, 240], lung: [-1350, 150], bone: [-500, 1300], brain: [0, 80] };
const COLOURS = [[255, 176, 0], [80, 200, 255], [255, 90, 120], [120, 230, 120], [200, 130, 255], [255, 230, 90]];
const PLANE = { axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL, "3D": SLICE_TYPE.RENDER, all: SLICE_TYPE.MULTIPLANAR };
const ACROSS = { axial: 2, coronal: 1, sagittal: 0 };
const AXES = { 0: [0, 1, 2], 1: [0, 2, 1], 2: [1, 2, 0] }; // of a tile: across, up, and through

function frame(tile) {
  const [left, top, width, height] = tile.leftTopWidthHeight;
  return { left: Math.min(left, left + width), top, width: Math.abs(width), height, mirrored: width < 0 };
}

export class VolumePane extends Pane {
  kind = "volume";

  constructor(host, about, which) {
    super(host, about, which);
    this.layout = about.layout;
    this.marks = new Marks(host);
    this.window = about.hu ? "soft tissue" : null;
    // before NiiVue sees it: while something is being marked the crosshair stays where it is
    for (const name of ["pointerdown", "pointermove", "pointerup", "mousedown", "mousemove", "mouseup"]) {
      host.addEventListener(name, (event) => this.mark(event), { capture: true });
    }
  }

  get hasOverlay() {
    return Boolean(this.box || this.masks.length);
  }

  get hasMask() {
    return this.masks.length > 0;
  }

  async load() {
    const nv = (this.nv = await take(this.host));
    this.canvas = nv.canvas;
    nv.onLocationChange = (location) => this.moved(location);
    this.setLayout(this.layout);
    const [cal_min, cal_max] = this.range(this.window); // given here, for a change afterwards draws everything again
    await nv.loadVolumes([{ url: this.about.url, name: "scan.nii", colormap: "gray", cal_min, cal_max }]);
    this.go(this.about.middle);
    const tick = () => { if (this.nv) { this.drawMarks(); requestAnimationFrame(tick); } };
    tick();
  }

  close() {
    this.nv?.cleanup?.();
    this.nv?.gl?.getExtension("WEBGL_lose_context")?.loseContext(); // a browser keeps only sixteen
    this.nv = null;
  }

  sync(other) {
    this.nv.broadcastTo([other.nv], { "2d": true, "3d": true });
    other.nv.broadcastTo([this.nv], { "2d": true, "3d": true });
  }

  setLayout(name) {
    this.layout = name;
    this.nv.setSliceType(PLANE[name]);
  }

  range(name) {
    return WINDOWS[name] ?? this.about.range;
  }

  setWindow(name) {
    this.window = name;
    const [low, high] = this.range(name);
    const volume = this.nv.volumes[0];
    Object.assign(volume, { cal_min: low, cal_max: high });
    this.nv.updateGLVolume();
  }

  setMeasuring(on) {
    Object.assign(this, { measuring: on, contrasting: false, marking: false });
    this.drag();
  }

  setContrasting(on) {
    Object.assign(this, { contrasting: on, measuring: false, marking: false });
    this.drag();
  }

  setMarking(on) {
    Object.assign(this, { marking: on, measuring: false, contrasting: false, from: null });
    this.drag();
  }

  // A click is a place, a drag a box in the slice below it; both in RAS mm.
  mark(event) {
    if (!this.marking || event.button > 0) return;
    event.stopPropagation();
    if (!event.type.startsWith("pointer")) return;
    if (event.type === "pointerdown") {
      this.host.setPointerCapture(event.pointerId);
      const tile = this.tileAt(event);
      this.from = tile && { tile, mm: this.mmAt(event, tile) };
      return;
    }
    if (!this.from) return;
    const to = this.mmAt(event, this.from.tile);
    const low = to.map((value, i) => Math.min(value, this.from.mm[i]));
    const high = to.map((value, i) => Math.max(value, this.from.mm[i]));
    const dragged = Math.hypot(...high.map((value, i) => value - low[i])) > 4;
    if (event.type === "pointermove") {
      if (dragged) this.box = { label: "", low, high };
      return;
    }
    this.from = null;
    this.onmark({ which: this.which, box: dragged ? [...low, ...high] : null, point: dragged ? null : to });
  }

  pixels(event) {
    const rect = this.canvas.getBoundingClientRect();
    return [(event.clientX - rect.left) * (this.canvas.width / rect.width), (event.clientY - rect.top) * (this.canvas.height / rect.height)];
  }

  tileAt(event) {
    const [px, py] = this.pixels(event);
    return this.nv.screenSlices.find((tile) => {
      const { left, top, width, height } = frame(tile);
      return AXES[tile.axCorSag] && px >= left && px <= left + width && py >= top && py <= top + height;
    });
  }

  mmAt(event, tile) {
    const [px, py] = this.pixels(event);
    const { left, top, width, height, mirrored } = frame(tile);
    const [a, b] = AXES[tile.axCorSag];
    const part = (px - left) / width;
    const mm = Array.from(this.nv.frac2mm(this.nv.scene.crosshairPos)).slice(0, 3);
    mm[a] = tile.leftTopMM[0] + (mirrored ? 1 - part : part) * tile.fovMM[0];
    mm[b] = tile.leftTopMM[1] + (1 - (py - top) / height) * tile.fovMM[1];
    return mm;
  }

  drag() {
    const left = this.measuring ? DRAG_MODE.measurement : this.contrasting ? DRAG_MODE.windowing : DRAG_MODE.crosshair;
    this.nv.setMouseEventConfig({ leftButton: { primary: left }, rightButton: DRAG_MODE.pan, centerButton: DRAG_MODE.pan });
  }

  reset() {
    this.nv.clearAllMeasurements();
    this.measuring = this.contrasting = this.marking = false;
    this.drag();
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    this.setWindow(this.about.hu ? "soft tissue" : null);
  }

  go(mm) {
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  // One slice on, in the plane that is seen; `round` begins again at the end.
  step(count, again = false) {
    const axis = ACROSS[this.layout] ?? ACROSS[this.about.plane];
    const move = [0, 0, 0];
    move[axis] = count;
    const before = this.nv.scene.crosshairPos[axis];
    this.nv.moveCrosshairInVox(...move);
    if (again && this.nv.scene.crosshairPos[axis] === before) {
      move[axis] = -this.nv.volumes[0].dimsRAS[axis + 1];
      this.nv.moveCrosshairInVox(...move);
    }
    this.nv.drawScene();
  }

  moved({ mm, vox, values }) {
    const axis = ACROSS[this.layout] ?? ACROSS[this.about.plane];
    this.place = { mm: Array.from(mm).slice(0, 3), vox: Array.from(vox) };
    const letters = ["R", "A", "S"].map((plus, i) => `${mm[i] < 0 ? "LPI"[i] : plus} ${round(Math.abs(mm[i]), 1)}`).join("  ");
    const value = values?.[0]?.value;
    const unit = this.about.hu ? " HU" : "";
    const slices = this.nv.volumes[0].dimsRAS[axis + 1];
    this.onmove(`${letters} mm   slice ${Math.round(vox[axis]) + 1} of ${slices}   value ${round(value, this.about.hu ? 0 : 1)}${unit}`);
  }

  async overlays(masks) {
    if (!this.nv || JSON.stringify(masks) === JSON.stringify(this.masks)) return;
    this.masks = masks;
    while (this.nv.volumes.length > 1) this.nv.removeVolumeByIndex(1);
    for (const mask of masks) {
      await this.nv.addVolumesFromUrl([{ url: mask.url, name: "mask.nii", opacity: this.opacity }]);
      const volume = this.nv.volumes[this.nv.volumes.length - 1];
      const labels = ["", ...mask.labels];
      const colour = (channel) => labels.map((_, i) => (i ? COLOURS[(mask.first + i - 1) % COLOURS.length][channel] : 0));
      volume.setColormapLabel({ R: colour(0), G: colour(1), B: colour(2), A: labels.map((_, i) => (i ? 255 : 0)), I: labels.map((_, i) => i), labels });
    }
    this.setOpacity(this.opacity);
  }

  setOpacity(value) {
    this.opacity = value;
    for (let i = 1; i < this.nv.volumes.length; i++) this.nv.setOpacity(i, this.overlayShown ? value : 0);
  }

  setOverlayShown(on) {
    this.overlayShown = on;
    this.setOpacity(this.opacity);
  }

  async show(item) {
    this.box = item.low ? item : null;
    if (!this.overlayShown) this.setOverlayShown(true);
    if (this.layout === "3D") this.setLayout("all");
    if (item.place) this.go(item.place);
  }

  // The box in every plane whose slice cuts it. A tile of NiiVue says where its corner is in mm and how wide it is.
  drawMarks() {
    const tiles = this.nv.screenSlices.map((tile) => [tile.axCorSag, ...tile.leftTopWidthHeight, ...(tile.leftTopMM ?? []), ...(tile.fovMM ?? [])]);
    const now = JSON.stringify([this.canvas.width, this.canvas.height, this.box, this.overlayShown, [...this.nv.scene.crosshairPos], tiles]);
    if (now === this.drawn) return; // an untouched canvas costs the browser nothing
    this.drawn = now;
    this.marks.begin(this.canvas.width, this.canvas.height);
    if (!this.box || !this.overlayShown) return;
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos);
    let named = false;
    for (const tile of this.nv.screenSlices) {
      const [a, b, across] = AXES[tile.axCorSag] ?? [];
      if (a === undefined || mm[across] < this.box.low[across] - 0.5 || mm[across] > this.box.high[across] + 0.5) continue;
      const { left, top, width, height, mirrored } = frame(tile);
      const x = (value) => {
        const part = (value - tile.leftTopMM[0]) / tile.fovMM[0];
        return left + (mirrored ? 1 - part : part) * width;
      };
      const y = (value) => top + (1 - (value - tile.leftTopMM[1]) / tile.fovMM[1]) * height;
      const xs = [x(this.box.low[a]), x(this.box.high[a])].sort((p, q) => p - q);
      const ys = [y(this.box.low[b]), y(this.box.high[b])].sort((p, q) => p - q);
      const clip = (value, low, size) => Math.max(low + 1, Math.min(value, low + size - 1));
      const words = named ? "" : this.box.number ? `${this.box.label} · ${this.box.number}` : this.box.label;
      named = true;
      this.marks.box(clip(xs[0], left, width), clip(ys[0], top, height), clip(xs[1], left, width), clip(ys[1], top, height), words);
    }
  }
}
