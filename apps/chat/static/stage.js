// What the viewer shows, as far as other parts of the page need to steer it.

let target = null;
let waiting = null;

export function onShow(callback) {
  target = callback;
  if (waiting) target(waiting);
  waiting = null;
}

// Move the viewer to a piece of evidence and mark it there.
export function show(item) {
  if (target) target(item);
  else waiting = item;
}
