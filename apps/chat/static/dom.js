// Elements from code only: text of files and models is always a text node, never HTML.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}

export function button(text, title, onclick, more = {}) {
  return h("button", { type: "button", title, onclick, ...more }, text);
}

// A custom component of gradio: draw now, and again whenever the server sends a new value.
export function follow({ props, watch }, draw) {
  watch("value", () => draw(props.value));
  draw(props.value);
}

export function round(value, digits = 1) {
  return Number.isFinite(value) ? value.toFixed(digits) : "?";
}
