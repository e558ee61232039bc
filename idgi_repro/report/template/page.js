'use strict'
const all = (selector, within = document) => [...within.querySelectorAll(selector)]

// a click on a column's head sorts its table by it, a second one the other way round; what is no number comes last
const order = (column, number, sign) => (a, b) => {
  const [s, t] = [a, b].map(row => row.cells[column].textContent.trim())
  if (!number) return sign*s.localeCompare(t, 'en', {numeric: true})
  const [x, y] = [s, t].map(parseFloat)
  return isNaN(x) - isNaN(y) || sign*(x - y) || 0
}
for (const table of all('table')) all('thead th', table).forEach((head, column) => {
  const button = document.createElement('button')
  button.type = 'button'
  button.append(...head.childNodes)
  button.addEventListener('click', () => {
    const sign = head.getAttribute('aria-sort') == 'ascending' ? -1 : 1
    for (const other of all('th', table)) other.removeAttribute('aria-sort')
    head.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending')
    const rows = [...table.tBodies[0].rows]
    table.tBodies[0].append(...rows.sort(order(column, head.classList.contains('number'), sign)))
  })
  head.append(button)
})

// a figure opens large, and closes on a click or Escape
const dialog = document.querySelector('dialog'), large = dialog.querySelector('img')
for (const link of all('a.zoom')) link.addEventListener('click', event => {
  event.preventDefault()
  const image = link.querySelector('img')
  large.src = image.src
  large.alt = image.alt
  dialog.showModal()
})
dialog.addEventListener('click', () => dialog.close())

// where a link leads is unfolded
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)))
  if (!target) return
  for (let at = target; at; at = at.parentElement) if (at.tagName == 'DETAILS') at.open = true
  target.scrollIntoView()
}
addEventListener('hashchange', reveal)
for (const link of all('nav a')) link.addEventListener('click', () => setTimeout(reveal))
reveal()

// all folds at once: by a button, and for printing
const folds = all('main details'), button = document.getElementById('all')
let closed = []
button.hidden = false
button.addEventListener('click', () => {
  const open = folds.some(fold => !fold.open)
  for (const fold of folds) fold.open = open
  button.textContent = open ? 'Fold all' : 'Unfold all'
})
addEventListener('beforeprint', () => {
  closed = folds.filter(fold => !fold.open)
  for (const fold of closed) fold.open = true
})
addEventListener('afterprint', () => { for (const fold of closed) fold.open = false })

// the contents mark the part that is in view
const links = new Map(all('nav > ol > li > a').map(link => [document.getElementById(link.hash.slice(1)), link]))
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) links.get(entry.target).classList.toggle('seen', entry.isIntersecting)
}, {rootMargin: '-10% 0px -60%'})
for (const part of links.keys()) seen.observe(part)
