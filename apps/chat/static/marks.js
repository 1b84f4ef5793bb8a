// Lines and words over an image: boxes of evidence and measured distances, drawn on a canvas of their own.

export class Marks {
  constructor(host) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "mf-marks";
    host.append(this.canvas);
  }

  // Begin a new drawing at the size of the canvas or element below.
  begin(width, height) {
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    this.context = this.canvas.getContext("2d");
    this.context.clearRect(0, 0, width, height);
    this.unit = Math.max(1, Math.min(width, height) / 600);
  }

  box(x1, y1, x2, y2, text) {
    const c = this.context;
    c.lineWidth = 2 * this.unit;
    c.strokeStyle = "#000a";
    c.strokeRect(x1 - this.unit, y1 - this.unit, x2 - x1 + 2 * this.unit, y2 - y1 + 2 * this.unit);
    c.strokeStyle = "#ffb000";
    c.strokeRect(x1, y1, x2 - x1, y2 - y1);
    if (text) this.words(text, x1, y1 - 4 * this.unit);
  }

  line(x1, y1, x2, y2, text) {
    const c = this.context;
    c.lineWidth = 2 * this.unit;
    c.strokeStyle = "#36d6ff";
    c.beginPath();
    c.moveTo(x1, y1);
    c.lineTo(x2, y2);
    c.stroke();
    if (text) this.words(text, (x1 + x2) / 2, (y1 + y2) / 2 - 6 * this.unit);
  }

  words(text, x, y) {
    const c = this.context;
    const size = Math.round(13 * this.unit);
    c.font = `600 ${size}px system-ui, sans-serif`;
    const width = c.measureText(text).width;
    const left = Math.max(2, Math.min(x, this.canvas.width - width - 8));
    const base = Math.max(size + 4, y);
    c.fillStyle = "#000b";
    c.fillRect(left - 3, base - size, width + 6, size + 5);
    c.fillStyle = "#fff";
    c.fillText(text, left, base);
  }
}
