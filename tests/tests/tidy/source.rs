//! What needs the syntax tree: lengths, names, and files that no module declares.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use proc_macro2::Span;
use syn::{
    Attribute, Block, Expr, ImplItemFn, Item, ItemFn, ItemImpl, ItemMod, Lit, Meta, Signature,
    TraitItemFn,
    spanned::Spanned,
    visit::{self, Visit},
};

use crate::{files, no_complaints, read, rust_files};

/// The longest function of the repository, in lines. This number may only fall.
const FUNCTION_LINES_MAX: usize = 61;

#[test]
fn the_longest_function_only_gets_shorter() {
    let mut longest = (0, String::new());
    for function in functions() {
        longest = longest.max((function.lines, function.place));
    }
    let (lines, place) = longest;
    assert!(
        lines <= FUNCTION_LINES_MAX,
        "{place} has {lines} lines, {FUNCTION_LINES_MAX} at most: split it"
    );
    assert!(
        lines == FUNCTION_LINES_MAX,
        "the longest function is {place} with {lines} lines: lower FUNCTION_LINES_MAX to {lines}"
    );
}

#[test]
fn functions_are_not_called_get() {
    // Whoever made the trait has named its functions.
    let ours = functions().into_iter().filter(|function| !function.of_trait);
    let found = ours.filter(|function| function.name.starts_with("get_"));
    no_complaints(
        &found.map(|f| format!("{}: {} without get_", f.place, f.name)).collect::<Vec<_>>(),
    );
}

#[test]
fn every_rust_file_is_a_part_of_some_crate() {
    let mut reached = BTreeSet::new();
    for manifest in files().iter().filter(|file| file.ends_with("Cargo.toml")) {
        for root in crate_roots(manifest) {
            reach(&root, true, &mut reached);
        }
    }
    let all = rust_files().into_iter().map(|(file, _)| file);
    let dead = all.filter(|file| !reached.contains(file));
    let dead: Vec<String> =
        dead.map(|file| format!("{}: no module declares it", file.display())).collect();
    no_complaints(&dead);
}

struct Function {
    name: String,
    place: String,
    lines: usize,
    /// It stands in the implementation of a trait.
    of_trait: bool,
}

fn functions() -> Vec<Function> {
    let mut functions = Vec::new();
    for (file, text) in rust_files() {
        let tree = parse(&file, &text);
        let mut finder = Finder { file: &file, functions: &mut functions, of_trait: false };
        finder.visit_file(&tree);
    }
    assert!(functions.len() > 100, "only {} functions were found", functions.len());
    functions
}

struct Finder<'a> {
    file: &'a Path,
    functions: &'a mut Vec<Function>,
    of_trait: bool,
}

impl Finder<'_> {
    fn found(&mut self, signature: &Signature, body: &Block) {
        let (start, end) = (line_of(signature.span()), body.span().end().line);
        let name = signature.ident.to_string();
        let place = format!("{}:{start}", self.file.display());
        let (lines, of_trait) = (end - start + 1, self.of_trait);
        self.functions.push(Function { name, place, lines, of_trait });
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.found(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let around = std::mem::replace(&mut self.of_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.of_trait = around;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.found(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(body) = &item.default {
            self.found(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Where the compiler starts: what the manifest names, and where cargo looks by itself.
fn crate_roots(manifest: &Path) -> Vec<PathBuf> {
    let folder = manifest.parent().expect("a manifest lies in a folder");
    let table: toml::Table = read(manifest).parse().expect("cargo has read it before");
    let named = ["bin", "test", "bench", "example"].iter().filter_map(|kind| table.get(*kind));
    let named = named.filter_map(toml::Value::as_array).flatten().chain(table.get("lib"));
    let named = named.filter_map(|target| target.get("path")?.as_str()).map(|p| folder.join(p));
    let mut roots: Vec<PathBuf> = named.collect();
    let by_itself = |file: &&PathBuf| {
        let Ok(inside) = file.strip_prefix(folder) else { return false };
        let parts: Vec<&str> = inside.iter().filter_map(|part| part.to_str()).collect();
        match parts.as_slice() {
            ["build.rs"] | ["src", "lib.rs" | "main.rs"] | ["src", "bin", _] => true,
            ["tests" | "examples" | "benches", file] => file.ends_with(".rs"),
            ["tests" | "examples" | "benches", _, "main.rs"] => true,
            ["src", "bin", _, "main.rs"] => true,
            _ => false,
        }
    };
    roots.extend(files().iter().filter(by_itself).cloned());
    roots
}

/// Marks the file and what its modules declare.
fn reach(file: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(file.to_owned()) {
        return;
    }
    let folder = file.parent().expect("a file lies in a folder");
    let is_mod = is_root || file.ends_with("mod.rs");
    let inner = if is_mod { folder.to_owned() } else { file.with_extension("") };
    for item in parse(file, &read(file)).items {
        if let Item::Mod(module) = item {
            reach_module(&module, folder, &inner, reached);
        }
    }
}

fn reach_module(module: &ItemMod, folder: &Path, inner: &Path, reached: &mut BTreeSet<PathBuf>) {
    let name = module.ident.to_string();
    if let Some((_, items)) = &module.content {
        for item in items {
            if let Item::Mod(nested) = item {
                reach_module(nested, folder, &inner.join(&name), reached);
            }
        }
        return;
    }
    let beside = [inner.join(format!("{name}.rs")), inner.join(&name).join("mod.rs")];
    let named = module.attrs.iter().find_map(named_path).map(|path| plain(folder, &path));
    let known = files();
    if let Some(file) = named.into_iter().chain(beside).find(|file| known.contains(file)) {
        reach(&file, false, reached);
    }
}

/// A path seen from a folder, without steps back.
fn plain(folder: &Path, path: &str) -> PathBuf {
    let mut plain = folder.to_owned();
    for part in Path::new(path) {
        if part == ".." {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

/// The path in `#[path = "…"]`.
fn named_path(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    let Expr::Lit(value) = &pair.value else { return None };
    let Lit::Str(path) = &value.lit else { return None };
    attribute.path().is_ident("path").then(|| path.value())
}

fn parse(file: &Path, text: &str) -> syn::File {
    syn::parse_file(text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn line_of(span: Span) -> usize {
    span.start().line
}
