// A NiiVue on a canvas of its own. One is made before a scan comes: its shaders take a second to compile.
import { MULTIPLANAR_TYPE, Niivue, SHOW_RENDER } from "./niivue/index.js";
import { h } from "./dom.js";

const OPTIONS = {
  backColor: [0, 0, 0, 1], crosshairColor: [0.25, 0.85, 1, 0.65], crosshairWidth: 0.6, crosshairGap: 8, fontColor: [0.9, 0.9, 0.9, 1],
  fontMinPx: 19, isOrientationTextVisible: true, isRadiologicalConvention: true, sagittalNoseLeft: true, isSliceMM: true,
  dragAndDropEnabled: false, multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarLayout: MULTIPLANAR_TYPE.GRID,
  show3Dcrosshair: true, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", loadingText: "",
  measureLineColor: [0.2, 0.85, 1, 1], measureTextColor: [1, 1, 1, 1], measureTextHeight: 0.06, isResizeCanvas: true, logLevel: "error",
};
let spare = null;

export function prepare(parent) {
  spare = make(parent);
  spare.catch(() => {}); // told when a scan is to be shown
}

// The prepared one, or a new one, moved into `host`.
export async function take(host) {
  const making = spare ?? make(host);
  spare = null;
  const { frame, nv } = await making;
  host.prepend(frame);
  return nv;
}

async function make(parent) {
  const canvas = h("canvas");
  const frame = h("div", { class: "mf-canvas" }, canvas); // NiiVue watches the canvas' parent, so both move together
  parent.append(frame);
  const nv = new Niivue(OPTIONS);
  await nv.attachToCanvas(canvas, false);
  skipGradients(nv);
  return { frame, nv };
}

// NiiVue computes the gradients of every volume, for a lighting that is not offered here: two seconds of twenty slices
// on a machine without a GPU. Its two passes get a shader whose triangles lie outside of the view.
function skipGradients(nv) {
  const gl = nv.gl;
  const program = gl.createProgram();
  for (const [type, text] of [[gl.VERTEX_SHADER, "gl_Position = vec4(2.0, 2.0, 2.0, 1.0);"], [gl.FRAGMENT_SHADER, ""]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, `#version 300 es\nvoid main() { ${text} }`);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  nv.blurShader = nv.sobelFirstOrderShader = { use: () => gl.useProgram(program), uniforms: {} };
}
