// The draft report: each sentence with its state and what it rests on; a reader accepts, edits or rejects it.
import { button, follow, h } from "./dom.js";
import { chip } from "./talk.js";

const STATES = { draft: "not yet read", accepted: "accepted", edited: "edited", rejected: "rejected" };

export function mount({ element, props, watch, trigger }) {
  const list = h("div", { class: "mf-report" });
  element.replaceChildren(list);
  const editing = new Map(); // "section/sentence" -> { text: what is typed, of: the sentence it is to replace }
  const draw = (value) => {
    const at = list.scrollTop;
    const decide = (section, sentence, decision, text = "") => {
      editing.delete(`${section}/${sentence}`);
      trigger("decide", { section, sentence, decision, text });
    };
    const edit = (key, text) => {
      if (text === null) editing.delete(key);
      else editing.set(key, { text, of: text });
      draw(value);
      list.querySelector(`[data-key="${key}"]`)?.focus();
    };
    list.replaceChildren(...parts(value ?? {}, { decide, edit, editing, trigger }));
    list.scrollTop = at;
  };
  follow({ props, watch }, draw);
}

function parts(value, acts) {
  if (value.busy) return [h("div", { class: "mf-empty mf-busy" }, h("span", { class: "mf-spin" }), value.busy)];
  const failed = value.error ? [h("div", { class: "mf-report-error", role: "alert" }, value.error)] : [];
  if (!value.sections?.length) {
    const text = value.open ? "No draft yet. Say why the scan was made, if you like, and draft one." : "Open a scan, then draft a report of it here.";
    return [...failed, h("p", { class: "mf-empty" }, text)];
  }
  const head = h("div", { class: "mf-watermark" }, value.watermark);
  const left = h("div", { class: "mf-left" }, value.final ? "Every sentence has been read." : `${value.left} ${value.left === 1 ? "sentence waits" : "sentences wait"} for your word; until then this is a draft.`);
  const context = Object.entries(value.context ?? {}).map(([name, text]) => h("div", { class: "mf-context" }, h("b", {}, `${name}: `), text));
  const sections = value.sections.map((section, s) => section.sentences.length
    ? h("section", {}, h("h3", {}, section.title), section.sentences.map((one, n) => sentenceOf(one, s, n, acts)))
    : null).filter(Boolean);
  return [...failed, head, ...context, left, ...sections, exports_(value, acts)];
}

function sentenceOf(one, s, n, acts) {
  const key = `${s}/${n}`;
  const box = h("div", { class: `mf-sentence mf-is-${one.state}` + (one.abstained ? " mf-abstained" : "") });
  const typed = acts.editing.get(key);
  if (typed && typed.of === one.text) { // a word on another sentence draws all anew; what is typed here stays
    const words = h("textarea", { rows: 3, maxlength: 2000, "aria-label": "The sentence in your words", "data-key": key });
    words.value = typed.text;
    words.addEventListener("input", () => { typed.text = words.value; });
    words.addEventListener("keydown", (event) => event.stopPropagation());
    box.append(words, h("div", { class: "mf-acts" },
      button("Save", "Keep these words", () => acts.decide(s, n, "edit", words.value)),
      button("Cancel", "Leave it as it was", () => acts.edit(key, null))));
    return box;
  }
  if (one.abstained) box.append(h("div", { class: "mf-declined" }, "Not stated"));
  box.append(h("div", { class: "mf-words" }, one.text));
  const sure = one.abstained ? one.reason : one.confidence === null ? null : `confidence ${Math.round(one.confidence * 100)} %`;
  box.append(h("div", { class: "mf-guess" }, [STATES[one.state], sure].filter(Boolean).join(" · ")));
  if (one.evidence.length) box.append(h("div", { class: "mf-chips" }, one.evidence.map(chip)));
  else if (one.findings && !one.abstained) box.append(h("div", { class: "mf-guess" }, "no place in the scan to show"));
  const press = (text, title, decision, state) => button(text, title, () => acts.decide(s, n, decision), { "aria-pressed": String(one.state === state) });
  box.append(h("div", { class: "mf-acts" },
    press("Accept", "It stands as it is", "accept", "accepted"),
    button("Edit", "Put it in your own words", () => acts.edit(key, one.text)),
    press("Reject", "Strike it", "reject", "rejected")));
  return box;
}

function exports_(value, acts) {
  const write = (form) => {
    box.querySelector(".mf-file")?.replaceWith(h("span", { class: "mf-guess" }, "writing ..."));
    acts.trigger("take", { form });
  };
  const link = value.file ? h("a", { class: "mf-file", href: value.file.url, download: value.file.name }, `Save ${value.file.name}`) : null;
  const box = h("div", { class: "mf-exports" }, h("h3", {}, "Take it along"),
    h("div", { class: "mf-chips" }, value.forms.map((form) => button(form, `Write as ${form}`, () => write(form), { class: "mf-idea" }))),
    link);
  return box;
}
