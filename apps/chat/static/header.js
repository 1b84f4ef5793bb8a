// The line on top: name, state of the model, what this is not, light or dark.
import { button, follow, h } from "./dom.js";

export function mount({ element, props, watch }) {
  const state = h("span", { class: "mf-state", role: "status" });
  const dark = () => document.body.classList.toggle("dark");
  element.replaceChildren(
    h("header", { class: "mf-header" },
      h("strong", {}, "medfm"), state, h("span", { class: "mf-note" }, "Assists, does not diagnose. Check every answer against the images."),
      button("◐", "Light or dark", dark, { class: "mf-dark", "aria-label": "Light or dark" })),
  );
  follow({ props, watch }, (value) => {
    state.textContent = value?.text ?? "";
    state.dataset.state = value?.state ?? "";
  });
}
