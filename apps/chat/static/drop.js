// Files dropped anywhere on the page are an upload; of a folder, all that is in it.

export function takeDrops(frame) {
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const over = (event, on) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser leaves the page to show the file
    frame.classList.toggle("mf-dropping", on);
  };
  document.addEventListener("dragover", (event) => over(event, true));
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(event, false); });
  document.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    over(event, false);
    event.stopPropagation(); // gradio's own field would take a folder for a file
    const files = await filesOf(event.dataTransfer);
    const input = document.querySelector("#mf-upload input[type=file]");
    if (!input || !files.length) return;
    const all = new DataTransfer();
    files.forEach((file) => all.items.add(file));
    input.files = all.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, { capture: true });
}

async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // now: gone after an await
  const plain = [...transfer.files];
  if (!entries.some((entry) => entry.isDirectory)) return plain;
  return (await Promise.all(entries.map(below))).flat();
}

async function below(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(below))).flat());
  }
}
