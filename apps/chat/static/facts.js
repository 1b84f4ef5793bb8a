// What was read and what should be known about it, or why it was refused: text, whatever a header says.
import { follow, h } from "./dom.js";

export function mount({ element, props, watch }) {
  const line = h("div", { class: "mf-facts", role: "status" });
  element.replaceChildren(line);
  follow({ props, watch }, (value) => {
    const part = (text, kind) => h("span", { class: kind }, text);
    line.replaceChildren(
      ...(value?.facts ?? []).map((text) => part(text, "")),
      ...(value?.notes ?? []).map((text) => part(text, "mf-warn")),
      ...(value?.error ? [part(value.error, "mf-error")] : []),
    );
  });
}
