// What the viewer's two panes share: the state of their tools and of what lies over the scan.
export class Pane {
  measuring = false;
  contrasting = false;
  marking = false;
  overlayShown = true;
  opacity = 0.5;
  masks = [];
  box = null;
  onmove = () => {};
  onmark = () => {};

  constructor(host, about, which) {
    Object.assign(this, { host, about, which });
  }
}
