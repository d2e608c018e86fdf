//! The commands of docs/docker.md, as they stand there.
//!
//! Each part of the document begins anew, with a server that runs where one is asked for. A block that cannot run on
//! a node says why, in a comment before it: `<!-- not run: it needs systemd -->`.

use std::fs;
use std::path::Path;

use crate::support::node::Ended;
use crate::support::{Node, guest, root, tell, until};

const DOCUMENT: &str = "docs/docker.md";

/// A block of code.
#[derive(Debug)]
struct Block {
    /// The line that it begins at.
    line: usize,
    language: String,
    text: String,
    /// The heading that it is under.
    part: String,
    /// Why it is not run.
    excuse: Option<String>,
}

pub(crate) fn the_commands_of_the_document_work(node: &Node) {
    let blocks = blocks(&fs::read_to_string(root().join(DOCUMENT)).expect("the document is there"));
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("the folder is ours");
    put("server.wasm", &guest("wasmedge/hello/server.wasm"));
    // What other parts add to the first `Dockerfile` belongs to the same image.
    put("Dockerfile", all_of(&blocks, "dockerfile").as_bytes());
    let compose = blocks.iter().find(|block| block.text.starts_with("services:")).expect("a file for Compose");
    put("compose.yaml", compose.text.as_bytes());

    let reader = Reader { node, folder: folder.path() };
    let start = blocks.iter().find(|block| block.text.contains("--name wasmservice")).expect("it is how to run");
    let (mut part, mut count) = ("", 0);
    for block in blocks.iter().filter(|block| block.language == "sh") {
        if let Some(why) = &block.excuse {
            tell(&format!("{DOCUMENT}:{}: not run: {why}", block.line));
            continue;
        }
        if part != block.part {
            part = &block.part;
            reader.clear();
            let is_asked_for = block.text.contains("exec wasmservice");
            if is_asked_for {
                reader.run(start).success();
            }
        }
        reader.obey(block);
        count += 1;
    }
    reader.clear();
    assert!(count > 10, "only {count} blocks were found to run");
}

/// Who types what the document says.
struct Reader<'a> {
    node: &'a Node,
    folder: &'a Path,
}

impl Reader<'_> {
    fn obey(&self, block: &Block) {
        let (text, place) = (block.text.as_str(), format!("{DOCUMENT}:{}", block.line));
        // Who types waits for a moment until a server is up.
        let is_question = ["curl ", "anyport probe http"].iter().any(|word| text.contains(word));
        let ended = match is_question {
            true => until(&place, || Some(self.run(block)).filter(|ended| ended.code == 0)),
            false => self.run(block),
        };
        assert_eq!(ended.code, 0, "{place}: {ended}");
        if text.contains("Health.Status") {
            until(&place, || (self.run(block).success() == "healthy").then_some(()));
        }
        if text.contains("anyport ps") {
            assert!(ended.success().contains("/server.wasm") && ended.stdout.contains("8080"), "{place}: {ended}");
        }
    }

    fn run(&self, block: &Block) -> Ended {
        // Everybody is root on a node; `anyport` is the one of this build.
        let programs = Path::new(env!("CARGO_BIN_EXE_containerd-shim-anyport-v1")).parent().expect("it is in a folder");
        assert!(programs.join("anyport").exists(), "`cargo build --workspace` makes the program `anyport`");
        let script = format!("sudo() {{ \"$@\"; }}\nPATH=\"$PATH:{}\"\n{}", programs.display(), block.text);
        self.node.run_in(self.folder, "sh", &["sh", "-ec", &script], None)
    }

    /// Removes the containers of a part.
    fn clear(&self) {
        let containers = self.node.docker(["ps", "--all", "--quiet"]);
        let containers: Vec<&str> = containers.success().lines().collect();
        if !containers.is_empty() {
            self.node.docker([&["rm", "--force"], containers.as_slice()].concat()).success();
        }
    }
}

/// The blocks of a language, one behind the other.
fn all_of(blocks: &[Block], language: &str) -> String {
    blocks.iter().filter(|block| block.language == language).map(|block| block.text.as_str()).collect()
}

fn blocks(document: &str) -> Vec<Block> {
    let (mut blocks, mut part, mut excuse) = (Vec::new(), String::new(), None);
    let mut open: Option<Block> = None;
    for (index, line) in document.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                let (language, part) = (language.to_owned(), part.clone());
                open = Some(Block { line: index + 1, language, text: String::new(), part, excuse: excuse.take() });
            }
            (None, Some(mut block)) => {
                block.text += &format!("{line}\n");
                open = Some(block);
            }
            (None, None) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    heading.clone_into(&mut part);
                }
                excuse =
                    line.strip_prefix("<!-- not run: ").and_then(|rest| rest.strip_suffix(" -->")).map(str::to_owned);
            }
        }
    }
    blocks
}
