// The viewer: one or two panes (current, prior), the tools for what is in them, keys, and the way to evidence.
import { prepare } from "./canvas.js";
import { button, follow, h } from "./dom.js";
import { takeDrops } from "./drop.js";
import { PicturePane } from "./picture.js";
import { onShow } from "./stage.js";
import { VolumePane, WINDOWS } from "./volume.js";

const KEYS = "arrows: slice   page up, down: five   space: play   o: overlay   r: reset   Esc: stop measuring or marking";

export function mount({ element, props, watch, trigger }) {
  const viewer = new Viewer(element, (where) => trigger("mark", where));
  follow({ props, watch }, (value) => viewer.update(value ?? {}));
  onShow((item) => viewer.show(item));
  takeDrops(viewer.stage);
  prepare(element.appendChild(h("div", { class: "mf-parked" })));
  element.medfm = viewer; // for tests: what is on the screen is asked here
}

class Viewer {
  constructor(element, onmark) {
    this.onmark = onmark;
    this.panes = {};
    this.value = {};
    this.playing = null;
    this.tools = h("div", { class: "mf-tools" });
    this.stage = h("div", { class: "mf-stage", tabindex: 0, "aria-label": `Viewer. ${KEYS}` });
    this.line = h("div", { class: "mf-line" });
    this.marked = h("div", { class: "mf-tools mf-marked" }); // beside the line: the image keeps its place when it fills
    element.replaceChildren(h("div", { class: "mf-viewer" }, this.tools, this.stage, h("div", { class: "mf-foot" }, this.line, this.marked)));
    // keys are ours: the canvas has its own for things that are not offered here
    this.stage.addEventListener("keydown", (event) => this.key(event), { capture: true });
    this.stage.addEventListener("pointerdown", () => this.stage.focus({ preventScroll: true }));
    this.empty();
  }

  get pane() {
    return this.panes.current;
  }

  empty() {
    this.stage.replaceChildren(h("div", { class: "mf-nothing" },
      h("div", { class: "mf-big" }, "No scan is open"),
      h("div", {}, "Drop a DICOM series (zip, folder or files), NIfTI, NRRD or a picture anywhere, or try a demo scan.")));
    this.tools.replaceChildren();
    this.marked.replaceChildren();
    this.line.textContent = "";
  }

  // One after another: masks that come while their scan is still loading wait for it.
  update(value) {
    this.value = value;
    this.drawing = (this.drawing ?? Promise.resolve()).then(() => this.value === value && this.apply(value));
  }

  async apply(value) {
    const same = ["current", "prior"].every((which) => this.drawn?.[which]?.url === value[which]?.url);
    this.drawn = value;
    if (!same) await this.open(value);
    for (const pane of Object.values(this.panes)) {
      await pane.overlays((value.masks ?? []).filter((m) => m.which === pane.which)).catch((error) => { this.line.textContent = `The overlay cannot be drawn (${error.message}).`; });
    }
    this.drawTools();
  }

  async open(value) {
    this.stop();
    for (const pane of Object.values(this.panes)) pane.close();
    this.panes = {};
    if (!value.current) return this.empty();
    this.stage.replaceChildren();
    this.stage.classList.toggle("mf-two", Boolean(value.prior));
    for (const which of ["current", "prior"]) {
      const about = value[which];
      if (!about) continue;
      const host = h("div", { class: "mf-pane" });
      if (value.prior) host.append(h("div", { class: "mf-which" }, which));
      const loading = h("div", { class: "mf-loading" }, h("span", { class: "mf-spin" }), "Loading the scan ...");
      host.append(loading);
      this.stage.append(host);
      const pane = about.kind === "volume" ? new VolumePane(host, about, which) : new PicturePane(host, about, which);
      pane.onmove = (text) => { if (which === "current" || !this.value.prior) this.line.textContent = text; };
      pane.onmark = (where) => { if (which === "current") this.onmark(where); };
      this.panes[which] = pane;
      try {
        await pane.load();
        loading.remove();
      } catch (error) {
        loading.textContent = `This scan cannot be drawn here (${error.message}). Questions about it still work.`;
      }
    }
    const { current, prior } = this.panes;
    if (current.sync && prior?.sync) current.sync(prior);
  }

  drawTools() {
    const pane = this.pane;
    if (!pane) return this.empty();
    const parts = [];
    const group = (...items) => parts.push(h("div", { class: "mf-group" }, items));
    const press = (name, now, title, act) => button(name, title, () => { act(); this.drawTools(); }, { "aria-pressed": String(now) });
    const each = (act) => Object.values(this.panes).forEach((p) => act(p));
    if (pane.kind === "volume") {
      group(...["axial", "coronal", "sagittal", "3D", "all"].map((name) =>
        press(name, pane.layout === name, `Show ${name}`, () => each((p) => p.setLayout(name)))));
      if (pane.about.hu) {
        group(...Object.keys(WINDOWS).map((name) =>
          press(name, pane.window === name, `${name} window`, () => each((p) => p.setWindow(name)))));
      }
      group(
        button("‹", "Previous slice (arrow down)", () => pane.step(-1)),
        button(this.playing ? "❚❚" : "▶", "Play (space)", () => this.play()),
        button("›", "Next slice (arrow up)", () => pane.step(1)),
      );
    }
    group(
      press("measure", pane.measuring, "Drag a line to measure it", () => each((p) => p.setMeasuring(!p.measuring))),
      press("mark", pane.marking, "Click on something, or drag a box around it, to outline it", () => pane.setMarking(!pane.marking)),
      press("contrast", pane.contrasting, "Drag to change the contrast", () => each((p) => p.setContrasting(!p.contrasting))),
      button("reset", "Forget zoom, contrast and lines", () => { each((p) => p.reset()); this.drawTools(); }),
      button("?", KEYS, () => { this.line.textContent = KEYS; }, { "aria-label": "Keys" }),
    );
    this.tools.replaceChildren(...parts);
    const marked = pane.hasOverlay ? [press("overlay", pane.overlayShown, "Show or hide what is marked (o)", () => this.toggle())] : [];
    if (pane.hasMask) {
      marked.unshift(h("input", { type: "range", min: 0, max: 1, step: 0.05, value: pane.opacity, title: "Opacity of the overlay", "aria-label": "Opacity of the overlay",
        oninput: (event) => each((p) => p.setOpacity?.(Number(event.target.value))) }));
    }
    this.marked.replaceChildren(...marked);
  }

  async show(item) {
    const pane = this.panes[item.which ?? "current"];
    if (!pane) return;
    this.stop();
    await pane.show(item);
    this.drawTools();
  }

  toggle() {
    Object.values(this.panes).forEach((pane) => pane.setOverlayShown(!pane.overlayShown));
  }

  play() {
    if (this.playing) this.stop();
    else this.playing = setInterval(() => this.pane?.step(1, true), 120);
    this.drawTools();
  }

  stop() {
    clearInterval(this.playing);
    this.playing = null;
  }

  key(event) {
    const pane = this.pane;
    if (!pane || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      ArrowUp: () => pane.step?.(1), ArrowRight: () => pane.step?.(1), PageUp: () => pane.step?.(5),
      ArrowDown: () => pane.step?.(-1), ArrowLeft: () => pane.step?.(-1), PageDown: () => pane.step?.(-5),
      " ": () => pane.step && this.play(), o: () => { this.toggle(); this.drawTools(); },
      Escape: () => { Object.values(this.panes).forEach((p) => p.setMeasuring(false)); this.drawTools(); },
      r: () => { Object.values(this.panes).forEach((p) => p.reset()); this.drawTools(); },
    };
    event.stopPropagation();
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
