// No server: files as programs of WASIX use them, by absolute paths and by relative ones, below a directory `/`.
// Ends with the number of the line that does not hold, or with 0.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOLDS(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "line %d: errno %d\n", __LINE__, errno); \
      exit(__LINE__ & 0xff); \
    } \
  } while (0)

static int entries(const char *path) {
  int count = 0;
  DIR *directory = opendir(path);
  HOLDS(directory);
  for (struct dirent *entry; (entry = readdir(directory));) count += entry->d_name[0] != '.';
  HOLDS(!closedir(directory));
  return count;
}

static void whole_file(const char *path) {
  char bytes[8] = {0};
  struct stat stat_of;
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0644);
  HOLDS(fd >= 0);
  HOLDS(write(fd, "hello", 5) == 5);
  HOLDS(lseek(fd, 1, SEEK_SET) == 1);
  HOLDS(read(fd, bytes, sizeof bytes) == 4 && !strcmp(bytes, "ello"));
  HOLDS(pread(fd, bytes, 2, 2) == 2 && !strncmp(bytes, "ll", 2));
  HOLDS(!fstat(fd, &stat_of) && stat_of.st_size == 5 && S_ISREG(stat_of.st_mode));
  HOLDS(!ftruncate(fd, 2));
  int second = dup(fd);
  HOLDS(second >= 0 && !close(fd));
  HOLDS(write(second, "y", 1) == 1 && !close(second));
  HOLDS(!stat(path, &stat_of) && stat_of.st_size == 6);
  HOLDS(open(path, O_RDWR | O_CREAT | O_EXCL, 0644) < 0 && errno == EEXIST);
}

static void escapes(const char *const paths[], int count) {
  struct stat stat_of;
  for (int i = 0; i < count; i++) {
    HOLDS(open(paths[i], O_RDONLY) < 0);
    HOLDS(open(paths[i], O_RDWR | O_CREAT, 0644) < 0);
    HOLDS(stat(paths[i], &stat_of) < 0);
    HOLDS(mkdir(paths[i], 0755) < 0);
    HOLDS(rename("/kept", paths[i]) < 0);
  }
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  char text[256];
  struct stat stat_of;
  // The root itself.
  HOLDS(!stat("/", &stat_of) && S_ISDIR(stat_of.st_mode));
  HOLDS(mkdir("/", 0755) < 0 && errno == EEXIST);
  int before = entries("/");
  HOLDS(before == 2);
  // From the root.
  HOLDS(!mkdir("/sub", 0755) && entries("/") == before + 1 && entries("/sub") == 0);
  whole_file("/sub/one");
  HOLDS(!rename("/sub/one", "/sub/two") && stat("/sub/one", &stat_of) < 0 && errno == ENOENT);
  HOLDS(!symlink("two", "/sub/link") && readlink("/sub/link", text, sizeof text) == 3 && !strncmp(text, "two", 3));
  HOLDS(!lstat("/sub/link", &stat_of) && S_ISLNK(stat_of.st_mode));
  HOLDS(!stat("//sub//link", &stat_of) && stat_of.st_size == 6);
  HOLDS(!link("/sub/two", "/sub/hard") && !stat("/sub/hard", &stat_of) && stat_of.st_nlink == 2);
  HOLDS(entries("/sub") == 3);
  // From where the program is.
  HOLDS(!chdir("/sub") && !strcmp(getcwd(text, sizeof text), "/sub"));
  HOLDS(!stat("two", &stat_of) && entries(".") == 3);
  HOLDS(!mkdir("deep", 0755) && !chdir("deep") && !strcmp(getcwd(text, sizeof text), "/sub/deep"));
  whole_file("three");
  HOLDS(!stat("/sub/deep/three", &stat_of) && !stat("../two", &stat_of));
  HOLDS(chdir("nowhere") < 0 && chdir("three") < 0);
  HOLDS(!rename("three", "/three") && !unlink("/three"));
  HOLDS(!chdir("/") && unlink("sub") < 0 && rmdir("sub") < 0);
  HOLDS(!unlink("/sub/two") && !unlink("sub/link") && !unlink("/sub/hard") && !rmdir("/sub/deep") && !rmdir("sub"));
  HOLDS(entries("/") == before);
  // What leads out: `kept` and `out` are there, and `out` is a link to where nobody may go.
  const char *const paths[] = {"/../secret", "../secret", "/out/secret", "out/secret", "/kept/../../secret"};
  escapes(paths, sizeof paths / sizeof *paths);
  puts("all holds");
  return 0;
}
