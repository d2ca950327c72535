// Shows the photo before it is sent, and says at once what the server would say of a file that is too large.
const form = document.querySelector("form.upload");
const input = form.elements.photo;
const drop = form.querySelector(".drop");
const preview = form.querySelector(".drop-preview");
const words = form.querySelector(".drop-words strong");
const hint = form.querySelector(".drop-hint");
const error = document.getElementById("photo-error");
const button = form.querySelector("button[type=submit]");
const MAX = Number(form.dataset.maxBytes);

const size = (bytes) => `${(bytes / 1024 / 1024).toFixed(1)} MB`;
const tooLarge = (file) => (file && file.size > MAX ? `This file is larger than ${form.dataset.maxSize}.` : "");

function look() {
  const [file] = input.files;
  error.textContent = tooLarge(file);
  input.toggleAttribute("aria-invalid", Boolean(error.textContent));
  URL.revokeObjectURL(preview.src);
  preview.hidden = true;
  if (!file) return;
  words.textContent = file.name;
  hint.textContent = `${size(file.size)} – choose another`;
  preview.onload = () => { preview.hidden = false; };
  preview.src = URL.createObjectURL(file);
}

input.addEventListener("change", look);
form.addEventListener("submit", (event) => {
  if (tooLarge(input.files[0])) {
    event.preventDefault();
    input.focus();
    return;
  }
  button.disabled = true;
  button.textContent = "Sending …";
});
window.addEventListener("pageshow", () => {
  button.disabled = false;
  button.textContent = "Blur it";
  if (input.files.length) look();
});

for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => {
  event.preventDefault();
  drop.classList.add("is-over");
});
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("is-over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  input.files = event.dataTransfer.files;
  look();
});
form.classList.add("shows-photo");
document.getElementById("errors")?.focus();
