// The conversation: questions, growing answers, how sure they are, and chips that lead to the image.
import { button, follow, h, round } from "./dom.js";
import { show } from "./stage.js";

const WORDS = [[0.9, "high"], [0.7, "moderate"], [0.5, "low"], [0, "very low"]];

export function mount({ element, props, watch, trigger }) {
  const list = h("div", { class: "mf-turns", "aria-live": "polite" });
  element.replaceChildren(list);
  let count = 0;
  const draw = (value) => {
    const turns = value?.turns ?? [];
    const atEnd = turns.length !== count || list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    count = turns.length;
    list.replaceChildren(...turns.map(turnOf));
    if (!turns.length) list.append(empty(value));
    const ideas = value?.suggestions ?? [];
    const busy = turns.some((turn) => turn.state === "running" || turn.state === "waiting");
    if (ideas.length && !busy) {
      list.append(h("div", { class: "mf-ideas" }, ideas.map((text) =>
        button(text, "Ask this", () => trigger("suggest", { question: text }), { class: "mf-idea" }))));
    }
    if (atEnd) list.scrollTop = list.scrollHeight;
  };
  follow({ props, watch }, draw);
}

function empty(value) {
  const text = value?.open ? "Ask about this scan, or take one of these." : "Open a scan, then ask about it here.";
  return h("p", { class: "mf-empty" }, text);
}

function turnOf(turn) {
  if (turn.role === "person") return h("div", { class: "mf-turn mf-person" }, turn.text);
  const box = h("div", { class: `mf-turn mf-answer mf-${turn.state}` + (turn.abstained ? " mf-abstained" : "") });
  if (turn.tool && turn.tool !== "ask") box.append(h("div", { class: "mf-tool" }, turn.tool));
  if (turn.state === "waiting" || (turn.state === "running" && !turn.text)) {
    box.append(h("div", { class: "mf-busy" }, h("span", { class: "mf-spin" }), turn.text || "Looking at the scan ..."));
    return box;
  }
  if (turn.abstained) {
    box.append(h("div", { class: "mf-declined" }, "Not answered"), h("div", {}, turn.reason ?? "The model is not sure enough."));
    if (turn.text) box.append(h("div", { class: "mf-guess" }, `its guess: ${turn.text}`));
  } else {
    box.append(h("div", { class: "mf-text" }, turn.text));
  }
  if (turn.note) box.append(h("div", { class: "mf-guess" }, turn.note));
  if (turn.state === "done" && turn.confidence !== null && turn.tool !== null && !turn.abstained) box.append(confidence(turn));
  if (turn.state === "stopped") box.append(h("div", { class: "mf-guess" }, "stopped"));
  if (turn.evidence?.length) box.append(h("div", { class: "mf-chips" }, turn.evidence.map(chip)));
  else if (turn.state === "done" && turn.tool === "ask" && !turn.abstained) {
    box.append(h("div", { class: "mf-guess" }, "no evidence in the image for this answer"));
  }
  return box;
}

function confidence(turn) {
  const value = turn.confidence;
  const word = WORDS.find(([least]) => value >= least)[1];
  const bar = h("span", { class: "mf-bar" }, h("span", { style: `width:${Math.round(value * 100)}%` }));
  return h("div", { class: "mf-confidence" }, `confidence ${word} (${round(value, 2)})`, bar);
}

export function chip(item) {
  const where = item.which === "prior" ? "prior: " : "";
  return button(`${where}${item.label}${item.number ? " · " + item.number : ""}`, "Show it in the image", () => show(item), {
    class: "mf-chip", disabled: item.place === null,
  });
}
